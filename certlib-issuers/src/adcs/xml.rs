//! Documents of XML as small trees: elements by namespace and local name, attributes by name, text.

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

/// How deep elements may be nested.
const DEPTH_MAX: usize = 64;

/// How many elements a document may have: a policy with a thousand templates has fewer.
const ELEMENTS_MAX: usize = 200_000;

/// An element.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    namespace: String,
    name: String,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// The root of a document; `None` when it is not well-formed, has a document type, or is out of proportion.
    pub(super) fn parse(document: &[u8]) -> Option<Self> {
        let document = std::str::from_utf8(document).ok()?;
        let mut reader = NsReader::from_str(document.trim_start_matches('\u{feff}'));
        reader.config_mut().expand_empty_elements = true;
        // The document itself, so that there is always an element to add to.
        let mut open = vec![Self::default()];
        let mut count = 0_usize;
        loop {
            let (namespace, event) = reader.read_resolved_event().ok()?;
            match event {
                Event::Start(start) => {
                    count += 1;
                    if open.len() > DEPTH_MAX || count > ELEMENTS_MAX {
                        return None;
                    }
                    let namespace = match namespace {
                        ResolveResult::Bound(namespace) => namespace.0.to_owned(),
                        ResolveResult::Unbound => String::new(),
                        ResolveResult::Unknown(_) => return None,
                    };
                    let name = start.local_name().into_inner().to_owned();
                    let mut attributes = Vec::new();
                    for attribute in start.attributes() {
                        let attribute = attribute.ok()?;
                        let value = attribute.normalized_value(XmlVersion::Implicit1_0).ok()?;
                        attributes.push((attribute.key.0.to_owned(), value.into_owned()));
                    }
                    open.push(Self { namespace, name, attributes, ..Self::default() });
                }
                Event::End(_) => {
                    let element = open.pop()?;
                    open.last_mut()?.children.push(element);
                }
                Event::Text(text) => open.last_mut()?.text.push_str(&text.xml10_content()),
                Event::CData(text) => open.last_mut()?.text.push_str(&text.xml10_content()),
                Event::GeneralRef(reference) => {
                    let text = &mut open.last_mut()?.text;
                    match reference.resolve_char_ref().ok()? {
                        Some(character) => text.push(character),
                        None => text.push_str(resolve_predefined_entity(&reference.xml10_content())?),
                    }
                }
                Event::DocType(_) => return None,
                Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        let mut document = open.pop().filter(|_| open.is_empty())?;
        if document.children.len() != 1 || !document.text.trim().is_empty() {
            return None;
        }
        document.children.pop()
    }

    pub(super) fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// The first child of this name.
    pub(super) fn child(&self, namespace: &str, name: &str) -> Option<&Self> {
        self.children(namespace, name).next()
    }

    /// The first child of this name, without the rest.
    pub(super) fn into_child(self, namespace: &str, name: &str) -> Option<Self> {
        self.children.into_iter().find(|child| child.is(namespace, name))
    }

    /// All children of this name.
    pub(super) fn children(&self, namespace: &str, name: &str) -> impl Iterator<Item = &Self> {
        self.children.iter().filter(move |child| child.is(namespace, name))
    }

    /// The text of the first child of this name, trimmed; `None` when there is none.
    pub(super) fn text_of(&self, namespace: &str, name: &str) -> Option<&str> {
        self.child(namespace, name).map(Self::text).filter(|text| !text.is_empty())
    }

    /// The value of an attribute, by its name as it is written.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Its own text, trimmed.
    pub(super) fn text(&self) -> &str {
        self.text.trim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_trees() {
        let document = "\u{feff}<?xml version='1.0'?><p:a xmlns:p='urn:a'><b xmlns='urn:b' K='1&amp;2'>x&#65;&lt;<!-- c -->\
                        <![CDATA[<]]></b><p:b/></p:a>\n";
        let root = Element::parse(document.as_bytes()).unwrap();
        assert!(root.is("urn:a", "a"));
        let b = root.child("urn:b", "b").unwrap();
        assert_eq!((b.text(), b.attribute("K"), b.attribute("k")), ("xA<<", Some("1&2"), None));
        assert_eq!((root.text_of("urn:b", "b"), root.text_of("urn:a", "b")), (Some("xA<<"), None));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
        for document in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><b/>",
            "<a/>text",
            "<p:a/>",
            "<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>",
            "<a>&e;</a>",
            &deep,
        ] {
            assert_eq!(Element::parse(document.as_bytes()), None, "{document}");
        }
        assert_eq!(Element::parse(b"<a>\xff</a>"), None);
    }
}
