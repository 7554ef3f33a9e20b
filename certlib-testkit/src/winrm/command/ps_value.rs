//! Values of PowerShell, as far as they are needed.

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Number(i64),
    Text(String),
    List(Vec<Value>),
}

impl Value {
    /// How it is printed, without the line break.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Boolean(true) => "True".to_owned(),
            Self::Boolean(false) => "False".to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            Self::List(items) => items.iter().map(Self::text).collect::<Vec<_>>().join(" "),
        }
    }

    /// What goes down a pipeline: the items of a list, nothing for nothing.
    pub(super) fn items(self) -> Vec<Value> {
        match self {
            Self::Null => Vec::new(),
            Self::List(items) => items,
            single => vec![single],
        }
    }

    /// One value for many.
    pub(super) fn of(mut items: Vec<Value>) -> Self {
        match items.len() {
            0 => Self::Null,
            1 => items.remove(0),
            _ => Self::List(items),
        }
    }

    /// The number it is, or reads as.
    pub(super) fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Boolean(flag) => Some(i64::from(*flag)),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Null => Some(0),
            Self::List(_) => None,
        }
    }

    /// Whether a condition holds.
    pub(super) fn holds(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Boolean(flag) => *flag,
            Self::Number(number) => *number != 0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
        }
    }

    /// Equality as `-eq` has it: case does not matter.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(left), right) => right.number() == Some(*left),
            (left, right) => left.text().eq_ignore_ascii_case(&right.text()),
        }
    }
}
