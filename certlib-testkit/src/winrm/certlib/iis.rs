//! The scripts `iis.*`.

use serde_json::{Value, json};

use super::{Answer, Run, bytes, list, text, thrown};
use crate::winrm::windows::{ImportOptions, SslEntry, SslKey, Windows, WindowsError};

pub(super) fn twin(name: &str) -> Option<Run> {
    Some(match name {
        "iis.look" => look,
        "iis.import" => import,
        "iis.bind" => bind,
        "iis.endpoint" => endpoint,
        "iis.remove" => remove,
        "iis.recycle" => recycle,
        _ => return None,
    })
}

fn look(input: &Value, windows: &mut Windows) -> Answer {
    let store = text(input, "store")?;
    let there = windows.modules.contains("WebAdministration") && windows.iis.installed;
    let sites = if there { windows.iis.sites() } else { &[] };
    let bindings: Vec<Value> = sites
        .iter()
        .flat_map(|site| site.bindings.iter().filter(|b| b.protocol == "https").map(move |b| (site, b)))
        .map(|(site, binding)| {
            json!({
                "site": site.name,
                "info": binding.information,
                "hash": binding.certificate_hash.clone().unwrap_or_default(),
                "store": binding.certificate_store.clone().unwrap_or_default(),
                "flags": binding.ssl_flags,
            })
        })
        .collect();
    let endpoints: Vec<Value> = windows
        .http_sys
        .entries()
        .filter(|(key, _)| !matches!(key, SslKey::Ccs(_)))
        .map(|(key, entry)| {
            let shown = key.to_string();
            let shown = shown.split_once('=').map_or("", |(_, shown)| shown);
            json!({ "key": shown, "hash": entry.certificate_hash, "appid": entry.app_id, "store": entry.store })
        })
        .collect();
    let certificates: Vec<Value> = windows
        .certificates
        .list(store)
        .into_iter()
        .map(|found| {
            json!({
                "thumbprint": found.thumbprint,
                "sha256": found.fingerprint,
                "friendly_name": found.friendly_name,
                "has_key": found.has_private_key(),
                "not_after": found.not_after.unix_timestamp(),
            })
        })
        .collect();
    let pools: Vec<&str> = windows.iis.pools().filter(|_| there).map(|pool| pool.name.as_str()).collect();
    Ok(json!({
        "build": windows.build(),
        "elevated": windows.elevated,
        "web_administration": there,
        "bindings": bindings,
        "endpoints": endpoints,
        "certificates": certificates,
        "sites": sites.iter().map(|site| site.name.clone()).collect::<Vec<_>>(),
        "pools": pools,
    }))
}

fn import(input: &Value, windows: &mut Windows) -> Answer {
    let store = text(input, "store")?;
    let options = ImportOptions {
        exportable: input["exportable"] == true,
        persisted: true,
        friendly_name: Some(text(input, "friendly_name")?.to_owned()),
    };
    let pfx = bytes(input, "pfx")?;
    let thumbprint = windows.certificates.import_pfx(store, &pfx, text(input, "password")?, &options)?;
    if thumbprint != text(input, "thumbprint")? {
        return Err(thrown("pfx_mismatch"));
    }
    let has_key = windows.certificates.get(store, &thumbprint)?.has_private_key();
    Ok(json!({ "thumbprint": thumbprint, "has_key": has_key }))
}

fn bind(input: &Value, windows: &mut Windows) -> Answer {
    let (site, info) = (text(input, "site")?, text(input, "info")?);
    let there = windows.iis.binding(site, "https", info).is_ok();
    if input["remove"] == true {
        if there {
            windows.remove_binding(site, "https", info)?;
        }
        return Ok(json!({ "hash": "" }));
    }
    if !there {
        if input["create"] != true {
            return Err(thrown("binding_missing"));
        }
        let flags = input["flags"].as_u64().and_then(|flags| u32::try_from(flags).ok()).unwrap_or_default();
        windows.add_binding(site, "https", info, flags & 3)?;
    }
    match input["thumbprint"].as_str() {
        Some(thumbprint) => windows.add_ssl_certificate(site, info, thumbprint, text(input, "store")?)?,
        None => {
            if windows.iis.binding(site, "https", info)?.certificate_hash.is_some() {
                windows.remove_ssl_certificate(site, info)?;
            }
        }
    }
    let hash = windows.iis.binding(site, "https", info)?.certificate_hash.clone();
    Ok(json!({ "hash": hash.unwrap_or_default() }))
}

fn endpoint(input: &Value, windows: &mut Windows) -> Answer {
    let (key, by) = (text(input, "key")?, text(input, "by")?);
    let (host, port) = key.rsplit_once(':').ok_or_else(|| WindowsError::invalid_parameter("key"))?;
    let port = port.parse().map_err(WindowsError::invalid_parameter)?;
    let key = match by {
        "ipport" => SslKey::IpPort(host.to_owned(), port),
        _ => SslKey::HostPort(host.to_lowercase(), port),
    };
    let refused = |_| thrown("endpoint_refused");
    let Some(thumbprint) = input["thumbprint"].as_str() else {
        if input["there"] == true {
            windows.http_sys.remove(&key).map_err(refused)?;
        }
        return Ok(json!({}));
    };
    let store = text(input, "store")?;
    if !windows.certificates.get(store, thumbprint).is_ok_and(|found| found.has_private_key()) {
        return Err(thrown("endpoint_refused"));
    }
    let entry = SslEntry::new(thumbprint, store, text(input, "appid")?);
    if input["there"] == true {
        windows.http_sys.update(&key, entry).map_err(refused)?;
    } else {
        windows.http_sys.add(key, entry).map_err(refused)?;
    }
    Ok(json!({}))
}

fn remove(input: &Value, windows: &mut Windows) -> Answer {
    let (store, thumbprint) = (text(input, "store")?, text(input, "thumbprint")?);
    let bound = windows.iis.sites().iter().flat_map(|site| &site.bindings);
    let used = bound.filter_map(|binding| binding.certificate_hash.as_deref()).any(|hash| hash == thumbprint)
        || windows.http_sys.entries().any(|(_, entry)| entry.certificate_hash == thumbprint);
    let marker = text(input, "marker")?;
    let ours = windows.certificates.get(store, thumbprint).is_ok_and(|found| found.friendly_name.starts_with(marker));
    if ours && !used {
        windows.certificates.remove(store, thumbprint)?;
    }
    Ok(json!({ "removed": ours && !used }))
}

fn recycle(input: &Value, windows: &mut Windows) -> Answer {
    for pool in list(input, "pools")? {
        if windows.iis.pool(pool)?.started {
            windows.iis.recycle_pool(pool)?;
        }
    }
    Ok(json!({}))
}
