//! Command lines of cmd.exe: words, variables, and what joins commands.

use std::collections::BTreeMap;

/// How a command depends on the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joiner {
    /// `&`
    Always,
    /// `&&`
    And,
    /// `||`
    Or,
}

/// Where standard output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) path: String,
    pub(super) append: bool,
}

/// One command of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) joiner: Joiner,
    pub(super) text: String,
    pub(super) output: Option<Redirect>,
}

/// The words of a command, as programs take them apart: double quotes group, a backslash escapes one.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&'"') => {
                word.get_or_insert_default().extend(characters.next());
            }
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' | '\t' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// Puts values in the place of `%NAME%`; what has no value stays.
pub(super) fn expand(line: &str, environment: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = line;
    while let Some(at) = rest.find('%') {
        let (before, after) = rest.split_at(at);
        expanded.push_str(before);
        let name = after[1..].find('%').map(|end| &after[1..=end]);
        match name.and_then(|name| environment.get(&name.to_uppercase()).map(|value| (name, value))) {
            Some((name, value)) => {
                expanded.push_str(value);
                rest = &after[name.len() + 2..];
            }
            None => {
                expanded.push('%');
                rest = &after[1..];
            }
        }
    }
    expanded + rest
}

/// Splits a line at `&`, `&&` and `||`, and takes redirections out. The error is what cmd.exe prints.
pub(super) fn steps(line: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut step = Step { joiner: Joiner::Always, text: String::new(), output: None };
    let mut quoted = false;
    let mut rest = line;
    while let Some(character) = rest.chars().next() {
        let plain = !quoted;
        let joiner = match rest {
            _ if !plain => None,
            _ if rest.starts_with("&&") => Some((Joiner::And, 2)),
            _ if rest.starts_with("||") => Some((Joiner::Or, 2)),
            _ if rest.starts_with('&') => Some((Joiner::Always, 1)),
            _ => None,
        };
        if let Some((joiner, length)) = joiner {
            let next = Step { joiner, text: String::new(), output: None };
            let done = std::mem::replace(&mut step, next);
            if done.text.trim().is_empty() {
                return Err(format!("{} was unexpected at this time.\r\n", &rest[..length]));
            }
            steps.push(done);
            rest = &rest[length..];
            continue;
        }
        match character {
            '"' => {
                quoted = !quoted;
                step.text.push('"');
            }
            '^' if plain => {
                let next = rest[1..].chars().next();
                step.text.extend(next);
                rest = &rest[1 + next.map_or(0, char::len_utf8)..];
                continue;
            }
            '>' if plain => {
                let append = rest.starts_with(">>");
                rest = rest[if append { 2 } else { 1 }..].trim_start();
                // `2>&1` and the like do not matter here: the number belongs to the redirection.
                let end = match rest.strip_prefix('"') {
                    Some(inner) => inner.find('"').map_or(rest.len(), |end| end + 2),
                    None => rest.find([' ', '&', '|']).unwrap_or(rest.len()),
                };
                let path = rest[..end].trim_matches('"').to_owned();
                if path.is_empty() {
                    return Err("The syntax of the command is incorrect.\r\n".to_owned());
                }
                step.output = Some(Redirect { path, append });
                rest = &rest[end..];
                continue;
            }
            '|' | '<' if plain => {
                return Err(format!("{character} is not simulated.\r\n"));
            }
            other => step.text.push(other),
        }
        rest = &rest[character.len_utf8()..];
    }
    if !step.text.trim().is_empty() {
        steps.push(step);
    } else if step.joiner != Joiner::Always {
        return Err("The syntax of the command is incorrect.\r\n".to_owned());
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_follow_the_rules_of_programs() {
        assert_eq!(words(r#"a "b c" d\e "f \"g\"" """#), ["a", "b c", r"d\e", r#"f "g""#, ""]);
    }

    #[test]
    fn variables_have_values_or_stay() {
        let environment = BTreeMap::from([("TEMP".to_owned(), "C:\\T".to_owned())]);
        assert_eq!(expand("echo %temp%\\x %none% 50%", &environment), "echo C:\\T\\x %none% 50%");
    }

    #[test]
    fn lines_are_split_outside_of_quotes() {
        let steps = steps("echo \"a & b\" >> C:\\x & type C:\\x&&exit 3||echo no ^& yes").unwrap();
        let texts: Vec<_> = steps.iter().map(|step| step.text.trim()).collect();
        assert_eq!(texts, ["echo \"a & b\"", "type C:\\x", "exit 3", "echo no & yes"]);
        assert_eq!(steps[0].output, Some(Redirect { path: "C:\\x".into(), append: true }));
        assert_eq!(steps[3].joiner, Joiner::Or);
        for bad in ["&& a", "a | b", "a >", "a &&"] {
            assert!(super::steps(bad).is_err(), "{bad}");
        }
    }
}
