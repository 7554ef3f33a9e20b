//! What can be ordered.

use serde_json::{Value, json};

use super::answer::{Answer, Outcome, Refusal};

/// Something that certificates are ordered as.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Product {
    pub(super) name_id: &'static str,
    name: &'static str,
    /// `dv`, `ov` or `ev`.
    pub(super) validation: &'static str,
    /// Whether it is of a public root, with the lifetimes that browsers allow.
    pub(super) public: bool,
    /// Whether a certificate may have names besides its common name.
    pub(super) more_names: bool,
    /// Whether a name may begin with `*.`.
    pub(super) wildcards: bool,
}

const PRODUCTS: [Product; 10] = [
    product("ssl_dv_geotrust", "GeoTrust DV SSL", "dv"),
    product("ssl_dv_geotrust_flex", "GeoTrust DV Flex", "dv").with_wildcards(),
    product("ssl_basic", "Basic OV", "ov").with_wildcards(),
    product("ssl_ev_basic", "Basic EV", "ev"),
    product("ssl_plus", "Standard SSL", "ov").single(),
    product("ssl_multi_domain", "Multi-Domain SSL", "ov"),
    product("ssl_wildcard", "WildCard", "ov").with_wildcards(),
    product("ssl_securesite_flex", "Secure Site OV", "ov").with_wildcards(),
    product("ssl_ev_securesite_flex", "Secure Site EV", "ev"),
    product("private_ssl_plus", "Private SSL", "ov").with_wildcards().private(),
];

const fn product(name_id: &'static str, name: &'static str, validation: &'static str) -> Product {
    Product { name_id, name, validation, public: true, more_names: true, wildcards: false }
}

impl Product {
    const fn with_wildcards(mut self) -> Self {
        self.wildcards = true;
        self
    }

    const fn single(mut self) -> Self {
        self.more_names = false;
        self
    }

    const fn private(mut self) -> Self {
        self.public = false;
        self
    }

    pub(super) fn find(name_id: &str) -> Result<&'static Product, Refusal> {
        const ALL: &[Product] = &PRODUCTS;
        ALL.iter().find(|product| product.name_id == name_id).ok_or_else(|| Refusal::absent("product"))
    }

    /// As it is shown with an order.
    pub(super) fn shown(&self) -> Value {
        json!({
            "name_id": self.name_id,
            "name": self.name,
            "type": self.kind(),
            "validation_type": self.validation,
            "validation_name": self.validation.to_uppercase(),
        })
    }

    fn kind(&self) -> &'static str {
        match (self.public, self.validation) {
            (false, _) => "private_ssl_certificate",
            (true, "dv") => "dv_ssl_certificate",
            (true, _) => "ssl_certificate",
        }
    }

    fn details(&self) -> Value {
        let hash = |id: &str, name: &str| json!({ "id": id, "name": name });
        json!({
            "group_name": self.kind(),
            "name_id": self.name_id,
            "name": self.name,
            "type": self.kind(),
            "validation_type": self.validation,
            "duplicates_allowed": true,
            "allowed_validity_years": [1, 2, 3],
            "signature_hash_types": {
                "allowed_hash_types": [hash("sha256", "SHA-256"), hash("sha384", "SHA-384"), hash("sha512", "SHA-512")],
                "default_hash_type_id": "sha256",
            },
            "additional_dns_names_allowed": self.more_names,
            "custom_expiration_date_allowed": true,
            "csr_required": true,
            "allow_auto_renew": true,
            "server_platforms": [{ "id": -1, "name": "OTHER" }, { "id": 2, "name": "Apache" }, { "id": 45, "name": "nginx" }],
        })
    }
}

/// `GET /product`.
pub(super) fn list() -> Outcome {
    let all: Vec<Value> = PRODUCTS.iter().map(Product::details).collect();
    Ok(Answer::Json(200, json!({ "products": all })))
}

/// `GET /product/{name_id}`.
pub(super) fn read(name_id: &str) -> Outcome {
    Ok(Answer::Json(200, Product::find(name_id)?.details()))
}
