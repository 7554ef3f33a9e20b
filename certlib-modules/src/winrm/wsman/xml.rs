//! Answers as a small tree.
//!
//! Only what an answer of WS-Management holds is kept: elements by namespace and local name, attributes without a
//! namespace, text. A document type is refused, so entities are the five that XML knows.

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;
use quick_xml::{Reader, XmlVersion};

/// How deep elements may be nested.
const MAX_DEPTH: usize = 64;

/// How many elements an answer may have.
const MAX_ELEMENTS: usize = 20_000;

/// An element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) namespace: String,
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Reads a document; `None` when it is not well-formed, or not one that could be an answer.
    pub(super) fn parse(document: &str) -> Option<Self> {
        let mut reader = NsReader::from_str(document);
        reader.config_mut().expand_empty_elements = true;
        let (mut open, mut root, mut count): (Vec<Self>, Option<Self>, usize) = (Vec::new(), None, 0);
        loop {
            let (namespace, event) = reader.read_resolved_event().ok()?;
            match event {
                Event::Start(start) => {
                    let namespace = match namespace {
                        ResolveResult::Bound(namespace) => text_of(namespace.0),
                        ResolveResult::Unbound => String::new(),
                        ResolveResult::Unknown(_) => return None,
                    };
                    count += 1;
                    if root.is_some() || open.len() >= MAX_DEPTH || count > MAX_ELEMENTS {
                        return None;
                    }
                    open.push(Self::start(namespace, &start)?);
                }
                Event::End(_) => {
                    let element = open.pop()?;
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None => root = Some(element),
                    }
                }
                Event::Text(text) => match open.last_mut() {
                    Some(element) => element.text.push_str(&text.xml10_content()),
                    None if text.trim().is_empty() => {}
                    None => return None,
                },
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
                Event::Eof => return if open.is_empty() { root } else { None },
            }
        }
    }

    fn start(namespace: String, start: &BytesStart<'_>) -> Option<Self> {
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute.ok()?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).ok()?;
            attributes.push((text_of(attribute.key.0), value.into_owned()));
        }
        let name = text_of(start.local_name().into_inner());
        Some(Self { namespace, name, attributes, text: String::new(), children: Vec::new() })
    }

    /// The first child of this name.
    pub(super) fn child(&self, namespace: &str, name: &str) -> Option<&Self> {
        self.children(namespace, name).next()
    }

    /// All children of this name.
    pub(super) fn children(&self, namespace: &str, name: &str) -> impl Iterator<Item = &Self> {
        self.children.iter().filter(move |child| child.namespace == namespace && child.name == name)
    }

    /// The end of a path of children of one namespace.
    pub(super) fn descend(&self, namespace: &str, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.child(namespace, name))
    }

    /// The value of an attribute without a namespace.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Its own text, trimmed.
    pub(super) fn text(&self) -> &str {
        self.text.trim()
    }
}

/// Collects what `pick` makes of the start and the text of each `S` element of CLIXML.
pub(super) fn clixml_strings(document: &str) -> Vec<(String, String)> {
    let mut reader = Reader::from_str(document);
    let (mut found, mut kind): (Vec<(String, String)>, Option<String>) = (Vec::new(), None);
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) if start.local_name().into_inner() == "S" => {
                let stream = start.attributes().flatten().find(|attribute| attribute.key.0 == "S");
                kind = stream.map(|attribute| attribute.value.to_string());
                if let Some(kind) = &kind {
                    found.push((kind.clone(), String::new()));
                }
            }
            Ok(Event::End(_)) => kind = None,
            Ok(Event::Text(text)) if kind.is_some() => push(&mut found, &text.xml10_content()),
            Ok(Event::CData(text)) if kind.is_some() => push(&mut found, &text.xml10_content()),
            Ok(Event::GeneralRef(reference)) if kind.is_some() => {
                let character = reference.resolve_char_ref().ok().flatten();
                let entity = reference.xml10_content();
                match (character, resolve_predefined_entity(&entity)) {
                    (Some(character), _) => push(&mut found, character.encode_utf8(&mut [0; 4])),
                    (None, Some(text)) => push(&mut found, text),
                    (None, None) => {}
                }
            }
            Ok(Event::Eof) | Err(_) => return found,
            Ok(_) => {}
        }
    }
}

fn push(found: &mut [(String, String)], text: &str) {
    if let Some((_, last)) = found.last_mut() {
        last.push_str(text);
    }
}

fn text_of(text: &str) -> String {
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_attributes_and_text() {
        let root = Element::parse(
            "<?xml version='1.0'?><a:r xmlns:a='urn:a'><b xmlns='urn:b' Code='1&amp;2'> x&lt;&#65;<![CDATA[<&]]> </b>\
             <a:b/></a:r>",
        )
        .unwrap();
        assert_eq!((root.namespace.as_str(), root.name.as_str()), ("urn:a", "r"));
        let b = root.child("urn:b", "b").unwrap();
        assert_eq!((b.text(), b.attribute("Code")), ("x<A<&", Some("1&2")));
        assert!(root.child("urn:a", "b").is_some() && root.child("urn:c", "b").is_none());
    }

    #[test]
    fn what_no_answer_looks_like_is_refused() {
        let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
        for document in [
            "",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "text",
            "<p:a/>",
            "<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>",
            "<a>&e;</a>",
            "<a b='&e;'/>",
            &deep,
        ] {
            assert_eq!(Element::parse(document), None, "{document}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(input in "\\PC{0,200}", tags in "[<>/a:='\"&;!\\[\\]?-]{0,60}") {
            let _ = (Element::parse(&input), Element::parse(&tags), clixml_strings(&input), clixml_strings(&tags));
        }
    }
}
