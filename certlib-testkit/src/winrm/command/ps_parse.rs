//! The grammar of PowerShell that is understood: statements of pipelines, `if`, `throw`, `exit`, assignments.

use super::ps_tree::{Argument, Expr, Stage, Statement};

/// Operators, loosest first; `,` and `..` bind tighter than all of them.
const OPERATORS: [&[&str]; 4] = [&["-and", "-or"], &["-eq", "-ne", "-gt", "-lt"], &["+", "-"], &["*"]];

/// How deep brackets may lie in each other.
const DEPTH: usize = 64;

/// How many brackets are open at once, at most; those in texts count as well.
fn depth(script: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for character in script.chars() {
        match character {
            '(' | '{' => open += 1,
            ')' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// Reads a script. The error is the text that could not be read.
pub(super) fn parse(script: &str) -> Result<Vec<Statement>, String> {
    if depth(script) > DEPTH {
        return Err(script.to_owned());
    }
    let mut parser = Parser { rest: script.trim_start_matches('\u{feff}') };
    let statements = parser.statements()?;
    if parser.rest.is_empty() { Ok(statements) } else { Err(parser.rest.to_owned()) }
}

/// Reads what `$(…)` holds; gives what follows it as well.
pub(super) fn parse_group(text: &str) -> Result<(Vec<Stage>, &str), String> {
    let mut parser = Parser { rest: text };
    let stages = parser.pipeline()?;
    parser.expect(")")?;
    Ok((stages, parser.rest))
}

struct Parser<'a> {
    rest: &'a str,
}

type Parsed<T> = Result<T, String>;

impl<'a> Parser<'a> {
    /// Spaces, comments and continued lines.
    fn blank(&mut self) {
        loop {
            let trimmed = self.rest.trim_start_matches([' ', '\t', '\r']);
            self.rest = if trimmed.starts_with("<#") {
                trimmed.find("#>").map_or("", |end| &trimmed[end + 2..])
            } else if trimmed.starts_with('#') {
                trimmed.find('\n').map_or("", |end| &trimmed[end..])
            } else if let Some(next) = trimmed.strip_prefix("`\n").or_else(|| trimmed.strip_prefix("`\r\n")) {
                next
            } else {
                self.rest = trimmed;
                return;
            };
        }
    }

    fn separators(&mut self) {
        self.blank();
        while let Some(next) = self.rest.strip_prefix([';', '\n']) {
            self.rest = next;
            self.blank();
        }
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        self.separators();
        self.rest = self.rest.strip_prefix(token).ok_or_else(|| self.rest.to_owned())?;
        Ok(())
    }

    /// A word of letters at the front, without taking it.
    fn word(&self) -> &'a str {
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || "-_.:\\%?/*".contains(c)));
        &self.rest[..end.unwrap_or(self.rest.len())]
    }

    fn statements(&mut self) -> Parsed<Vec<Statement>> {
        let mut statements = Vec::new();
        loop {
            self.separators();
            if self.rest.is_empty() || self.rest.starts_with('}') {
                return Ok(statements);
            }
            statements.push(self.statement()?);
            self.blank();
            if !(self.rest.is_empty() || self.rest.starts_with([';', '\n', '}'])) {
                return Err(self.rest.to_owned());
            }
        }
    }

    fn block(&mut self) -> Parsed<Vec<Statement>> {
        self.expect("{")?;
        let statements = self.statements()?;
        self.expect("}")?;
        Ok(statements)
    }

    fn statement(&mut self) -> Parsed<Statement> {
        if let Some(assignment) = self.assignment()? {
            return Ok(assignment);
        }
        let word = self.word();
        let keyword = word.to_lowercase();
        if !matches!(keyword.as_str(), "throw" | "exit" | "if" | "try") {
            return self.pipeline().map(Statement::Pipeline);
        }
        self.rest = &self.rest[word.len()..];
        self.blank();
        let ends = self.rest.is_empty() || self.rest.starts_with([';', '\n', '}']);
        match keyword.as_str() {
            "throw" if ends => Ok(Statement::Throw(None)),
            "throw" => self.expression().map(Some).map(Statement::Throw),
            "exit" if ends => Ok(Statement::Exit(None)),
            "exit" => self.expression().map(Some).map(Statement::Exit),
            "try" => {
                let body = self.block()?;
                self.expect("catch")?;
                Ok(Statement::Try(body, self.block()?))
            }
            _ => {
                self.expect("(")?;
                let condition = self.expression()?;
                self.expect(")")?;
                let then = self.block()?;
                let before = self.rest;
                self.separators();
                if self.word().eq_ignore_ascii_case("else") {
                    self.rest = &self.rest[4..];
                    return Ok(Statement::If(condition, then, self.block()?));
                }
                self.rest = before;
                Ok(Statement::If(condition, then, Vec::new()))
            }
        }
    }

    fn assignment(&mut self) -> Parsed<Option<Statement>> {
        let before = self.rest;
        if let Some(name) = self.variable() {
            self.blank();
            if let Some(rest) = self.rest.strip_prefix('=').filter(|rest| !rest.starts_with('=')) {
                self.rest = rest;
                return self.pipeline().map(|stages| Some(Statement::Assign(name, stages)));
            }
        }
        self.rest = before;
        Ok(None)
    }

    fn variable(&mut self) -> Option<String> {
        let rest = self.rest.strip_prefix('$')?;
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches(':');
        if name.is_empty() {
            return None;
        }
        self.rest = &rest[name.len()..];
        Some(name.to_lowercase())
    }

    fn pipeline(&mut self) -> Parsed<Vec<Stage>> {
        let mut stages = Vec::new();
        loop {
            self.blank();
            stages.push(self.stage()?);
            self.blank();
            match self.rest.strip_prefix('|') {
                Some(rest) => {
                    self.rest = rest;
                    self.separators();
                }
                None => return Ok(stages),
            }
        }
    }

    fn stage(&mut self) -> Parsed<Stage> {
        if let Some(rest) = self.rest.strip_prefix("& ") {
            self.rest = rest.trim_start();
        }
        let word = self.word();
        let starts = |c: char| c.is_alphabetic() || "%?\\".contains(c);
        if !word.starts_with(starts) {
            return self.expression().map(Stage::Value);
        }
        self.rest = &self.rest[word.len()..];
        let mut arguments = Vec::new();
        loop {
            self.blank();
            if self.rest.is_empty() || self.rest.starts_with([';', '\n', '|', '}', ')']) {
                return Ok(Stage::Command { name: word.to_owned(), arguments });
            }
            arguments.push(self.argument()?);
        }
    }

    fn argument(&mut self) -> Parsed<Argument> {
        if self.rest.starts_with('{') {
            return self.block().map(Argument::Block);
        }
        if self.rest.starts_with('-') && self.rest[1..].starts_with(|c: char| c.is_alphabetic()) {
            let word = self.word();
            self.rest = &self.rest[word.len()..];
            return Ok(Argument::Name(word[1..].trim_end_matches(':').to_lowercase()));
        }
        if self.rest.starts_with(['\'', '"', '$', '(', '@', '[']) {
            return self.list().map(Argument::Value);
        }
        // A bare word is text, up to what ends an argument.
        let end = self.rest.find(|c: char| c.is_whitespace() || ";|)}".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(Argument::Value(word.parse().map_or_else(|_| Expr::Template(word.to_owned()), Expr::Number)))
    }

    fn expression(&mut self) -> Parsed<Expr> {
        self.binary(0)
    }

    fn binary(&mut self, level: usize) -> Parsed<Expr> {
        let Some(operators) = OPERATORS.get(level) else { return self.list() };
        let mut left = self.binary(level + 1)?;
        loop {
            self.blank();
            let follows = |operator: &&&str| {
                let (next, after) = self.rest.split_at_checked(operator.len()).unwrap_or_default();
                // A minus with letters behind it is another operator.
                let whole = **operator != "-" || !after.starts_with(|c: char| c.is_alphabetic());
                next.eq_ignore_ascii_case(operator) && whole
            };
            let Some(operator) = operators.iter().find(follows) else {
                return Ok(left);
            };
            self.rest = &self.rest[operator.len()..];
            let right = self.binary(level + 1)?;
            left = Expr::Binary(Box::new(left), operator, Box::new(right));
        }
    }

    fn list(&mut self) -> Parsed<Expr> {
        let mut items = vec![self.range()?];
        loop {
            self.blank();
            match self.rest.strip_prefix(',') {
                Some(rest) => {
                    self.rest = rest;
                    self.separators();
                    items.push(self.range()?);
                }
                None if items.len() == 1 => return Ok(items.remove(0)),
                None => return Ok(Expr::List(items)),
            }
        }
    }

    fn range(&mut self) -> Parsed<Expr> {
        let left = self.postfix()?;
        match self.rest.strip_prefix("..") {
            Some(rest) => {
                self.rest = rest;
                Ok(Expr::Binary(Box::new(left), "..", Box::new(self.postfix()?)))
            }
            None => Ok(left),
        }
    }

    fn postfix(&mut self) -> Parsed<Expr> {
        let mut value = self.primary()?;
        while let Some(rest) = self.rest.strip_prefix('.').filter(|rest| rest.starts_with(|c: char| c.is_alphabetic()))
        {
            self.rest = rest;
            let name = self.member();
            value = match self.arguments()? {
                Some(arguments) => Expr::Call(Box::new(value), name, arguments),
                None => Expr::Property(Box::new(value), name),
            };
        }
        Ok(value)
    }

    fn member(&mut self) -> String {
        let end = self.rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name.to_lowercase()
    }

    fn arguments(&mut self) -> Parsed<Option<Vec<Expr>>> {
        let Some(rest) = self.rest.strip_prefix('(') else { return Ok(None) };
        self.rest = rest;
        self.separators();
        let mut arguments = Vec::new();
        if !self.rest.starts_with(')') {
            match self.expression()? {
                Expr::List(items) => arguments = items,
                single => arguments.push(single),
            }
        }
        self.expect(")")?;
        Ok(Some(arguments))
    }

    fn primary(&mut self) -> Parsed<Expr> {
        self.blank();
        let failed = self.rest.to_owned();
        let mut characters = self.rest.chars();
        match characters.next() {
            Some('\'') => {
                let mut text = String::new();
                let mut rest = characters.as_str();
                loop {
                    let end = rest.find('\'').ok_or_else(|| failed.clone())?;
                    text.push_str(&rest[..end]);
                    rest = &rest[end + 1..];
                    match rest.strip_prefix('\'') {
                        Some(next) => {
                            text.push('\'');
                            rest = next;
                        }
                        None => break,
                    }
                }
                self.rest = rest;
                Ok(Expr::Literal(text))
            }
            Some('"') => {
                let inner = characters.as_str();
                let mut end = None;
                let mut indices = inner.char_indices();
                while let Some((at, character)) = indices.next() {
                    match character {
                        '`' => drop(indices.next()),
                        '"' => {
                            end = Some(at);
                            break;
                        }
                        _ => {}
                    }
                }
                let end = end.ok_or(failed)?;
                self.rest = &inner[end + 1..];
                Ok(Expr::Template(inner[..end].to_owned()))
            }
            Some('(') => {
                self.rest = characters.as_str();
                let stages = self.pipeline()?;
                self.expect(")")?;
                Ok(Expr::Group(stages))
            }
            Some('@') if characters.as_str().starts_with('(') => {
                self.rest = &characters.as_str()[1..];
                self.separators();
                if self.rest.starts_with(')') {
                    self.expect(")")?;
                    return Ok(Expr::List(Vec::new()));
                }
                let stages = self.pipeline()?;
                self.expect(")")?;
                Ok(Expr::Group(stages))
            }
            Some('$') => self.variable().map(Expr::Variable).ok_or(failed),
            Some('[') => {
                let end = self.rest.find("]::").ok_or(failed)?;
                let class = self.rest[1..end].to_lowercase();
                self.rest = &self.rest[end + 3..];
                let member = self.member();
                let arguments = self.arguments()?;
                Ok(Expr::Static(class, member, arguments))
            }
            Some(digit) if digit.is_ascii_digit() || digit == '-' => {
                let end = self.rest[1..].find(|c: char| !c.is_ascii_digit()).map_or(self.rest.len(), |end| end + 1);
                let number = self.rest[..end].parse().map_err(|_| failed)?;
                self.rest = &self.rest[end..];
                Ok(Expr::Number(number))
            }
            _ => Err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_taken_apart() {
        let script = "# a comment\n$x = 'it''s' ; Write-Output \"a $x\" -NoEnumerate | Out-Null\nif ($x -eq 1) { exit 3 } else { throw 'no' }";
        let statements = parse(script).unwrap();
        assert_eq!(statements.len(), 3);
        assert!(matches!(&statements[0], Statement::Assign(name, _) if name == "x"));
        assert!(matches!(&statements[1], Statement::Pipeline(stages) if stages.len() == 2));
        assert!(matches!(&statements[2], Statement::If(..)));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for bad in ["'open", "\"open", "1 +", "(1", "@{a=1}", "if (1) { 2", "$", "1 2", "[Console]"] {
            assert!(parse(bad).is_err(), "{bad}: {:?}", parse(bad));
        }
    }
}
