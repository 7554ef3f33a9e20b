//! Which certificates virtual servers, services and service groups have.

use http::Method;
use serde_json::{Value, json};

use super::{
    certkeys,
    nitro::{Answer, Call, Outcome, Refusal, code, missing},
    state::{Binding, Caller, Holder, Kind, Partition, State},
};

impl Kind {
    /// The field that names one in a binding.
    fn field(self) -> &'static str {
        match self {
            Self::Vserver => "vservername",
            Self::Service => "servicename",
            Self::ServiceGroup => "servicegroupname",
        }
    }
}

pub(super) fn answer(state: &mut State, caller: &Caller, call: &Call, kind: Kind) -> Outcome {
    match call.method {
        Method::PUT | Method::POST => bind(state, caller, call, kind),
        Method::DELETE => unbind(state, caller, call, kind),
        Method::GET => show(state, caller, call, kind),
        _ => Err(Refusal::invalid("method")),
    }
}

fn holder<'a>(partition: &'a mut Partition, kind: Kind, name: &str) -> Result<&'a mut Holder, Refusal> {
    let absent = || Refusal::absent(kind.field(), name);
    partition.holders.get_mut(&(kind, name.to_owned())).ok_or_else(absent)
}

fn bind(state: &mut State, caller: &Caller, call: &Call, kind: Kind) -> Outcome {
    let name = call.text(kind.field()).or(call.name.as_deref()).ok_or_else(|| missing(kind.field()))?;
    let certkey = call.required("certkeyname")?.to_owned();
    let new = Binding { certkey, sni: call.flag("snicert"), ca: call.flag("ca") };
    let older_build = state.older_build;
    let partition = state.partition_mut(&caller.partition);
    let certkeys = partition.certkeys.clone();
    let added = certkeys.get(&new.certkey).ok_or_else(|| certkeys::absent(older_build, &new.certkey))?;
    if !new.ca && added.key_pem.is_none() {
        return Err(Refusal::own(code::BAD_KEY, "A server certificate needs its private key"));
    }
    let holder = holder(partition, kind, name)?;
    if holder.bindings.contains(&new) {
        return Err(Refusal::exists(&format!("certkeyName, {}", new.certkey)));
    }
    let others = |binding: &&Binding| !binding.ca && binding.sni == new.sni;
    if new.sni {
        let clash = holder.bindings.iter().filter(others).filter_map(|binding| certkeys.get(&binding.certkey));
        if clash.into_iter().any(|other| other.certificate.shares_a_domain(&added.certificate)) {
            return Err(Refusal::own(code::DUPLICATE_DOMAIN, "Duplicate domain certificate cannot be added"));
        }
    } else if !new.ca {
        // One server certificate for each kind of key: the new one takes the place of the old one.
        holder.bindings.retain(|binding| {
            let same_kind = certkeys
                .get(&binding.certkey)
                .is_none_or(|other| other.certificate.key_kind == added.certificate.key_kind);
            binding.ca || binding.sni || !same_kind
        });
    }
    holder.bindings.push(new);
    Ok(if call.method == Method::POST { Answer::created() } else { Answer::ok() })
}

fn unbind(state: &mut State, caller: &Caller, call: &Call, kind: Kind) -> Outcome {
    let args = call.pairs("args");
    let name = call.name.as_ref().or_else(|| args.get(kind.field())).ok_or_else(|| missing(kind.field()))?;
    let certkey = args.get("certkeyname").ok_or_else(|| missing("certkeyname"))?;
    let is = |field: &str| args.get(field).is_some_and(|value| value == "true");
    let old = Binding { certkey: certkey.clone(), sni: is("snicert"), ca: is("ca") };
    let holder = holder(state.partition_mut(&caller.partition), kind, name)?;
    let before = holder.bindings.len();
    holder.bindings.retain(|binding| *binding != old);
    if holder.bindings.len() == before { Err(Refusal::absent("certkeyname", certkey)) } else { Ok(Answer::ok()) }
}

fn show(state: &State, caller: &Caller, call: &Call, kind: Kind) -> Outcome {
    let name = call.name.as_ref().ok_or_else(|| missing(kind.field()))?;
    let partition = state.partition(&caller.partition);
    let holder = partition.holders.get(&(kind, name.clone())).ok_or_else(|| Refusal::absent(kind.field(), name))?;
    let items = holder.bindings.iter().map(|binding| {
        json!({
            kind.field(): name,
            "certkeyname": binding.certkey,
            "snicert": binding.sni,
            "ca": binding.ca,
            "crlcheck": "Optional",
            "ocspcheck": "Optional",
        })
    });
    Ok(Answer::list(call, &call.resource, items.collect()))
}

/// What a certificate is bound to.
pub(super) fn of_certkey(state: &State, caller: &Caller, call: &Call) -> Outcome {
    if call.method != Method::GET {
        return Err(Refusal::invalid("method"));
    }
    let name = call.name.as_ref().ok_or_else(|| missing("certkey"))?;
    let partition = state.partition(&caller.partition);
    if !partition.certkeys.contains_key(name) {
        return Err(certkeys::absent(state.older_build, name));
    }
    let (mut vservers, mut services): (Vec<Value>, Vec<Value>) = Default::default();
    for ((kind, holder_name), holder) in &partition.holders {
        for binding in holder.bindings.iter().filter(|binding| binding.certkey == *name) {
            let common =
                |field: &str| json!({ "certkey": name, "ca": binding.ca, "data": 1, "version": 1, field: holder_name });
            match kind {
                Kind::Vserver => vservers.push(common("servername")),
                Kind::Service => services.push(common("servicename")),
                Kind::ServiceGroup => services.push(common("servicegroupname")),
            }
        }
    }
    if call.resource == "sslcertkey_sslvserver_binding" {
        return Ok(Answer::list(call, &call.resource, vservers));
    }
    if call.resource == "sslcertkey_service_binding" {
        return Ok(Answer::list(call, &call.resource, services));
    }
    let mut entry = json!({ "certkey": name });
    for (field, items) in [("sslcertkey_sslvserver_binding", vservers), ("sslcertkey_service_binding", services)] {
        if !items.is_empty() {
            entry[field] = Value::Array(items);
        }
    }
    Ok(Answer::ok().with("sslcertkey_binding", json!([entry])))
}

/// The virtual servers, services and service groups themselves.
pub(super) fn holders(state: &State, caller: &Caller, call: &Call) -> Outcome {
    if call.method != Method::GET {
        return Err(Refusal::invalid("method"));
    }
    let (kind, field) = match call.resource.as_str() {
        "service" => (Kind::Service, "name"),
        "servicegroup" => (Kind::ServiceGroup, "servicegroupname"),
        "sslvserver" => (Kind::Vserver, "vservername"),
        _ => (Kind::Vserver, "name"),
    };
    let partition = state.partition(&caller.partition);
    let items = partition.holders.iter().filter(|((of, _), _)| *of == kind).map(|((_, name), holder)| {
        let mut item = json!({ field: name, "servicetype": "SSL", "curstate": "UP", "effectivestate": "UP" });
        if let Some(address) = holder.address {
            item["ipv46"] = json!(address.ip().to_string());
            item["port"] = json!(address.port());
        }
        item
    });
    let mut items: Vec<Value> = items.collect();
    if let Some(name) = &call.name {
        items.retain(|item| item[field] == name.as_str());
        if items.is_empty() {
            return Err(Refusal::absent(field, name));
        }
    }
    Ok(Answer::list(call, &call.resource, items))
}
