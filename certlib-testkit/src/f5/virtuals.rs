//! `ltm/virtual`.

use serde_json::{Map, Value, json};

use super::{
    answer::{Refusal, link},
    call::{field, flag},
    config::Config,
    name,
    profile::Side,
    settings::{self, Settings},
};

pub(super) const TITLE: &str = "virtual server";

/// A virtual server: as far as the simulator goes, a list of profiles.
#[derive(Clone, Debug)]
pub(super) struct Virtual {
    destination: String,
    /// A virtual server that is disabled serves nothing.
    pub(super) enabled: bool,
    settings: Settings,
    /// Names, each with the context it is used in.
    profiles: Vec<(String, &'static str)>,
}

impl Virtual {
    /// A virtual server with these client-ssl profiles.
    pub(super) fn with_client_ssl(profiles: &[&str]) -> Self {
        let profiles = profiles.iter().map(|name| ((*name).to_owned(), Side::Client.context()));
        Self { profiles: profiles.collect(), ..Self::new("/Common/127.0.0.1:443") }
    }

    fn new(destination: &str) -> Self {
        let (destination, settings) = (destination.to_owned(), settings::of_virtual());
        Self { destination, enabled: true, settings, profiles: Vec::new() }
    }

    pub(super) fn read(body: &Map<String, Value>, config: &Config) -> Result<Self, Refusal> {
        Self::new("/Common/0.0.0.0:0").changed(body, config)
    }

    /// The same after a change.
    pub(super) fn changed(&self, body: &Map<String, Value>, config: &Config) -> Result<Self, Refusal> {
        let mut own = self.clone();
        if let Some(destination) = field(body, "destination")? {
            own.destination = name::full(destination);
        }
        if flag(body, "enabled")? == Some(true) {
            own.enabled = true;
        } else if flag(body, "disabled")? == Some(true) {
            own.enabled = false;
        }
        settings::change(&mut own.settings, &settings::of_virtual(), body)?;
        // Protocols are taken by number, too.
        let protocol = match own.settings["ipProtocol"].as_str() {
            Some("6") => "tcp",
            Some("17") => "udp",
            Some("132") => "sctp",
            _ => "",
        };
        if !protocol.is_empty() {
            own.settings.insert("ipProtocol".to_owned(), json!(protocol));
        }
        if let Some(profiles) = body.get("profiles") {
            let wrong = || Refusal::invalid("invalid property value \"profiles\"");
            let profiles = profiles.as_array().ok_or_else(wrong)?.iter().map(|value| {
                let (name, context) = match value {
                    Value::String(name) => (name::full(name), None),
                    Value::Object(body) => (name::from_body(body)?, field(body, "context")?),
                    _ => return Err(wrong()),
                };
                let side = Side::BOTH.into_iter().find(|side| config.profiles(*side).contains_key(&name));
                let context = match (context, side) {
                    (_, Some(side)) => side.context(),
                    // Other kinds of profiles are taken as they come.
                    (Some("clientside"), None) => "clientside",
                    (Some("serverside"), None) => "serverside",
                    _ => "all",
                };
                Ok((name, context))
            });
            own.profiles = profiles.collect::<Result<_, Refusal>>()?;
        }
        Ok(own)
    }

    /// The client-ssl profiles, in order.
    pub(super) fn client_ssl(&self) -> impl Iterator<Item = &str> {
        let client = self.profiles.iter().filter(|(_, context)| *context == Side::Client.context());
        client.map(|(name, _)| name.as_str())
    }

    pub(super) fn uses(&self, profile: &str) -> bool {
        self.profiles.iter().any(|(name, _)| name == profile)
    }

    /// Whether its profiles exist, and one is the default where several are.
    pub(super) fn check(&self, name: &str, config: &Config) -> Result<(), Refusal> {
        for (profile, context) in &self.profiles {
            let side = Side::BOTH.into_iter().find(|side| side.context() == *context);
            if let Some(side) = side
                && !config.profiles(side).contains_key(profile)
            {
                return Err(Refusal::absent(side.title(), profile));
            }
        }
        let several: Vec<_> = self.client_ssl().filter_map(|name| config.client_ssl.get(name)).collect();
        if several.len() > 1 && several.iter().filter(|own| own.sni_default).count() != 1 {
            let message = format!(
                "01070734:3: Configuration error: {TITLE} {name} needs exactly one client-ssl profile with sni-default"
            );
            return Err(Refusal::new(400, message));
        }
        Ok(())
    }

    pub(super) fn show(&self, name: &str, expand: bool) -> Value {
        let path = format!("tm/ltm/virtual/{}", name::to_url(name));
        let mut fields = name::fields(name);
        let mut profiles = json!({ "link": link(&format!("{path}/profiles")), "isSubcollection": true });
        if expand {
            profiles["items"] = json!(self.show_profiles(name));
        }
        let more = json!({
            "kind": "tm:ltm:virtual:virtualstate",
            "selfLink": link(&path),
            "destination": self.destination,
            "profilesReference": profiles,
            "policiesReference": { "link": link(&format!("{path}/policies")), "isSubcollection": true },
        });
        fields.insert(if self.enabled { "enabled" } else { "disabled" }.to_owned(), json!(true));
        fields.extend(self.settings.clone().into_iter().filter(|(_, value)| !value.is_null()));
        if let Value::Object(more) = more {
            fields.extend(more);
        }
        Value::Object(fields)
    }

    pub(super) fn show_profiles(&self, name: &str) -> Vec<Value> {
        let shown = self.profiles.iter().map(|(profile, context)| {
            let mut fields = name::fields(profile);
            let path = format!("tm/ltm/virtual/{}/profiles/{}", name::to_url(name), name::to_url(profile));
            fields.insert("kind".to_owned(), json!("tm:ltm:virtual:profiles:profilesstate"));
            fields.insert("selfLink".to_owned(), json!(link(&path)));
            fields.insert("context".to_owned(), json!(context));
            Value::Object(fields)
        });
        shown.collect()
    }
}
