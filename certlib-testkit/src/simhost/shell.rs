//! The part of POSIX sh that clients use to wrap a command: quoting, `;`, `&&`, `||` and redirections.

/// How a step depends on the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joiner {
    /// Runs in any case.
    Always,
    /// Runs after success.
    And,
    /// Runs after failure.
    Or,
}

/// Where a step's standard output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) path: String,
    pub(super) append: bool,
}

/// One simple command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) joiner: Joiner,
    pub(super) words: Vec<String>,
    pub(super) input: Option<String>,
    pub(super) output: Option<Redirect>,
    /// `2>/dev/null`
    pub(super) mutes_errors: bool,
    /// `2>&1`
    pub(super) merges_errors: bool,
}

impl Step {
    fn new(joiner: Joiner) -> Self {
        Self { joiner, words: Vec::new(), input: None, output: None, mutes_errors: false, merges_errors: false }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Operator(&'static str),
}

/// Longest first, so that `&&` is not taken for `&`.
const OPERATORS: [&str; 12] = ["2>&1", "2>", "1>", "&&", "||", ">>", ">", "<", ";", "\n", "|", "&"];

/// Splits a script into its steps. The error is what sh would print.
pub(super) fn parse(script: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut step = Step::new(Joiner::Always);
    let mut tokens = tokens(script)?.into_iter();
    while let Some(token) = tokens.next() {
        let operator = match token {
            Token::Word(word) => {
                step.words.push(word);
                continue;
            }
            Token::Operator(operator) => operator,
        };
        let mut target = || match tokens.next() {
            Some(Token::Word(word)) => Ok(word),
            _ => Err(format!("sh: syntax error: {operator} needs a file")),
        };
        match operator {
            "2>&1" => step.merges_errors = true,
            "2>" => {
                if target()? != "/dev/null" {
                    return Err("sh: standard error can only go to /dev/null here".into());
                }
                step.mutes_errors = true;
            }
            "<" => step.input = Some(target()?),
            ">" | "1>" | ">>" => {
                step.output = Some(Redirect { path: target()?, append: operator == ">>" });
            }
            "&&" | "||" | ";" | "\n" => {
                let joiner = match operator {
                    "&&" => Joiner::And,
                    "||" => Joiner::Or,
                    _ => Joiner::Always,
                };
                let done = std::mem::replace(&mut step, Step::new(joiner));
                match (done.words.is_empty(), joiner, done.joiner) {
                    (false, ..) => steps.push(done),
                    (true, Joiner::Always, Joiner::Always) => {}
                    _ => return Err(format!("sh: syntax error near {operator}")),
                }
            }
            other => return Err(format!("sh: {other} is not supported by this shell")),
        }
    }
    if !step.words.is_empty() {
        steps.push(step);
    } else if step.joiner != Joiner::Always || step.output.is_some() {
        return Err("sh: syntax error: unexpected end".into());
    }
    Ok(steps)
}

fn tokens(script: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = script;
    while let Some(next) = rest.chars().next() {
        // A digit belongs to a redirection only at the start of a word.
        let operator = OPERATORS.iter().find(|operator| {
            rest.starts_with(**operator) && (word.is_none() || !operator.starts_with(|c: char| c.is_ascii_digit()))
        });
        if let Some(operator) = operator {
            tokens.extend(word.take().map(Token::Word));
            tokens.push(Token::Operator(operator));
            rest = &rest[operator.len()..];
            continue;
        }
        rest = &rest[next.len_utf8()..];
        match next {
            ' ' | '\t' => tokens.extend(word.take().map(Token::Word)),
            '\'' => {
                let end = rest.find('\'').ok_or("sh: unterminated quoted string")?;
                word.get_or_insert_default().push_str(&rest[..end]);
                rest = &rest[end + 1..];
            }
            '"' => rest = double_quoted(rest, word.get_or_insert_default())?,
            '\\' => {
                let escaped = rest.chars().next().ok_or("sh: nothing after backslash")?;
                word.get_or_insert_default().push(escaped);
                rest = &rest[escaped.len_utf8()..];
            }
            '`' | '(' | ')' => return Err(format!("sh: {next} is not supported by this shell")),
            other => word.get_or_insert_default().push(other),
        }
    }
    tokens.extend(word.map(Token::Word));
    Ok(tokens)
}

/// Reads up to the closing double quote and returns what follows it.
fn double_quoted<'a>(text: &'a str, word: &mut String) -> Result<&'a str, String> {
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Ok(&text[index + 1..]),
            '\\' => match characters.next() {
                Some((_, escaped @ ('"' | '\\' | '$' | '`'))) => word.push(escaped),
                Some((_, other)) => word.extend(['\\', other]),
                None => break,
            },
            other => word.push(other),
        }
    }
    Err("sh: unterminated quoted string".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(script: &str) -> Vec<Vec<String>> {
        let steps = parse(script).unwrap();
        steps.into_iter().map(|step| step.words).collect()
    }

    #[test]
    fn quoting_follows_posix() {
        assert_eq!(
            words(r#"mv -f -- '/a b' "/c \"d\" \n" /e\ f '' x'y'"z""#),
            [["mv", "-f", "--", "/a b", r#"/c "d" \n"#, "/e f", "", "xyz"]]
        );
        // The usual way to put a single quote into a single-quoted string.
        assert_eq!(words(r"cat 'it'\''s'"), [["cat", "it's"]]);
        assert!(parse("cat 'open").is_err());
        assert!(parse("cat \"open").is_err());
    }

    #[test]
    fn steps_are_joined_and_redirected() {
        let steps = parse("umask 077; cat>'/t p' 2>/dev/null && sync -f /d||false").unwrap();
        let joiners: Vec<_> = steps.iter().map(|step| step.joiner).collect();
        use Joiner::{Always, And, Or};
        assert_eq!(joiners, [Always, Always, And, Or]);
        assert_eq!(steps[1].output, Some(Redirect { path: "/t p".into(), append: false }));
        assert!(steps[1].mutes_errors);
        assert_eq!(steps[2].words, ["sync", "-f", "/d"]);
    }

    #[test]
    fn digits_inside_words_are_not_redirections() {
        assert_eq!(words("test a2 b1"), [["test", "a2", "b1"]]);
        let merged = parse("command -v nginx >/dev/null 2>&1").unwrap();
        assert!(merged[0].merges_errors);
        assert_eq!(merged[0].words, ["command", "-v", "nginx"]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for script in ["a | b", "a &", "$(a", "a &&", "&& a", "a >", "a ; && b"] {
            assert!(parse(script).is_err(), "{script}");
        }
        assert!(parse("").unwrap().is_empty());
    }
}
