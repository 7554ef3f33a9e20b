//! Scripts of PowerShell as trees.

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Statement {
    Assign(String, Vec<Stage>),
    Throw(Option<Expr>),
    Exit(Option<Expr>),
    If(Expr, Vec<Statement>, Vec<Statement>),
    Try(Vec<Statement>, Vec<Statement>),
    Pipeline(Vec<Stage>),
}

/// A part of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stage {
    Value(Expr),
    Command { name: String, arguments: Vec<Argument> },
}

/// An argument of a command.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Argument {
    Name(String),
    Value(Expr),
    Block(Vec<Statement>),
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Number(i64),
    /// Text without anything to put in.
    Literal(String),
    /// Text in double quotes: variables and `$(…)` are put in.
    Template(String),
    Variable(String),
    List(Vec<Expr>),
    Group(Vec<Stage>),
    Binary(Box<Expr>, &'static str, Box<Expr>),
    Property(Box<Expr>, String),
    /// `[Type]::Member`, with arguments when it is called.
    Static(String, String, Option<Vec<Expr>>),
    /// `[Type]::Property.Method(…)`.
    Call(Box<Expr>, String, Vec<Expr>),
}
