//! How much work a run of the benches is worth.

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// `cargo test --benches`: only show that it works.
    Test,
    /// `cargo bench -- --quick`.
    Quick,
    /// `cargo bench`.
    Full,
}

impl Scale {
    /// Reads the command line of this process.
    #[must_use]
    pub fn of_this_run() -> Self {
        let has = |flag: &str| std::env::args().any(|argument| argument == flag);
        match (has("--bench"), has("--quick")) {
            (false, _) => Self::Test,
            (true, true) => Self::Quick,
            (true, false) => Self::Full,
        }
    }

    /// One of three values.
    pub fn pick<T>(self, test: T, quick: T, full: T) -> T {
        match self {
            Self::Test => test,
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}
