//! XML as a tree, by namespace: what is needed to read an envelope.

use quick_xml::{
    NsReader, XmlVersion,
    escape::escape,
    events::{BytesStart, Event},
    name::ResolveResult,
};

/// How deep elements may lie in each other.
const DEPTH: usize = 64;

/// An element with its attributes (local names), children and text.
#[derive(Debug, Default)]
pub(crate) struct Element {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) children: Vec<Element>,
    pub(crate) text: String,
}

impl Element {
    /// Reads a document; `None` when it is not well-formed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut reader = NsReader::from_str(text);
        let mut open: Vec<Element> = Vec::new();
        loop {
            let (namespace, event) = reader.read_resolved_event().ok()?;
            let namespace = match namespace {
                ResolveResult::Bound(namespace) => namespace.as_ref().to_owned(),
                _ => Default::default(),
            };
            match event {
                Event::Start(start) if open.len() < DEPTH => open.push(begin(&namespace, &start)?),
                Event::Empty(start) => {
                    let element = begin(&namespace, &start)?;
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None => return Some(element),
                    }
                }
                Event::End(_) => {
                    let element = open.pop()?;
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None => return Some(element),
                    }
                }
                Event::Text(text) => push(&mut open, &text.xml10_content()),
                Event::CData(text) => push(&mut open, &text.xml10_content()),
                Event::GeneralRef(reference) => {
                    let character = match reference.resolve_char_ref().ok()? {
                        Some(character) => character,
                        None => match reference.xml10_content().as_ref() {
                            "lt" => '<',
                            "gt" => '>',
                            "amp" => '&',
                            "quot" => '"',
                            "apos" => '\'',
                            _ => return None,
                        },
                    };
                    push(&mut open, character.encode_utf8(&mut [0; 4]));
                }
                Event::Start(_) | Event::DocType(_) | Event::Eof => return None,
                _ => {}
            }
        }
    }

    /// The first child of that name.
    pub(crate) fn child(&self, namespace: &str, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.is(namespace, name))
    }

    /// Whether it has that name.
    pub(crate) fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// An attribute, by its local name.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The text of the first child of that name, trimmed.
    pub(crate) fn text_of(&self, namespace: &str, name: &str) -> Option<&str> {
        self.child(namespace, name).map(|child| child.text.trim())
    }
}

/// Envelopes come in UTF-8, or in UTF-16 from clients on Windows.
pub(crate) fn decode(bytes: &[u8]) -> String {
    match bytes {
        [0xff, 0xfe, rest @ ..] => {
            let units: Vec<u16> = rest.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        other => String::from_utf8_lossy(other).trim_start_matches('\u{feff}').to_owned(),
    }
}

/// Text for an element or attribute.
pub(crate) fn escaped(text: &str) -> String {
    escape(text).into_owned()
}

fn begin(namespace: &str, start: &BytesStart<'_>) -> Option<Element> {
    let mut element =
        Element { namespace: namespace.to_owned(), name: start.local_name().as_ref().to_owned(), ..Element::default() };
    for attribute in start.attributes() {
        let attribute = attribute.ok()?;
        let value = attribute.normalized_value(XmlVersion::Explicit1_0).ok()?;
        element.attributes.push((attribute.key.local_name().as_ref().to_owned(), value.into_owned()));
    }
    Some(element)
}

fn push(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_by_namespace() {
        let text = "<?xml version=\"1.0\"?><a:x xmlns:a=\"urn:a\" xmlns='urn:b'><y n='1 &amp; 2'>t&lt;<![CDATA[<u>]]>&#65;</y><a:z/></a:x>";
        let tree = Element::parse(text).unwrap();
        assert!(tree.is("urn:a", "x") && tree.child("urn:a", "z").is_some());
        let inner = tree.child("urn:b", "y").unwrap();
        assert_eq!((inner.text.as_str(), inner.attribute("n")), ("t<<u>A", Some("1 & 2")));
        for bad in ["", "<a>", "<a></b>", "text", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "<a>&b;</a>"] {
            assert!(Element::parse(bad).is_none(), "{bad}");
        }
        let deep = "<a>".repeat(100) + &"</a>".repeat(100);
        assert!(Element::parse(&deep).is_none());
        assert_eq!(escaped("<a b=\"c\">&"), "&lt;a b=&quot;c&quot;&gt;&amp;");
    }
}
