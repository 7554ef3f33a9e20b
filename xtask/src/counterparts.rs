use std::{
    env,
    io::{self, Write as _},
    time::Instant,
};

use certlib_testkit::locate::{self, COUNTERPARTS, Recipe};

/// Which counterparts are used, and which are left out on purpose.
pub(crate) struct Selection {
    left_out: Vec<&'static str>,
}

impl Selection {
    /// What the command line leaves out, together with what the environment leaves out already.
    pub(crate) fn new(without: Vec<String>) -> Result<Selection, String> {
        Selection::parse(&env::var(locate::WITHOUT).unwrap_or_default(), &without)
    }

    fn parse(inherited: &str, without: &[String]) -> Result<Selection, String> {
        let wanted = inherited.split(',').map(str::trim).filter(|name| !name.is_empty());
        let mut left_out = Vec::new();
        for name in wanted.chain(without.iter().map(String::as_str)) {
            let known = COUNTERPARTS.iter().find(|counterpart| counterpart.name == name);
            let Some(known) = known else {
                let names: Vec<&str> = COUNTERPARTS.iter().map(|counterpart| counterpart.name).collect();
                return Err(format!("no counterpart is called `{name}`; there are: {}", names.join(", ")));
            };
            if !left_out.contains(&known.name) {
                left_out.push(known.name);
            }
        }
        Ok(Selection { left_out })
    }

    /// The value of the variable that tells the tests.
    pub(crate) fn variable(&self) -> String {
        self.left_out.join(",")
    }

    /// Whether nothing is left out.
    pub(crate) fn is_complete(&self) -> bool {
        self.left_out.is_empty()
    }

    /// Finds or installs everything that is not left out. Goes on after a failure, to name all of them at once.
    pub(crate) async fn set_up(&self) -> Result<(), String> {
        let mut failures = Vec::new();
        for counterpart in COUNTERPARTS {
            print!("{:<16}", counterpart.name);
            // Shown while an installation takes its time.
            let _ = io::stdout().flush();
            if self.left_out.contains(&counterpart.name) {
                println!("left out");
                continue;
            }
            let began = Instant::now();
            match locate::locate_all(counterpart).await {
                Ok(paths) => {
                    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
                    println!("{} ({:.1} s)", paths.join(" "), began.elapsed().as_secs_f32());
                }
                Err(error) => {
                    println!("missing");
                    failures.push(error.to_string());
                }
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("\nerror: ")) }
    }

    /// One line, only when something was left out.
    pub(crate) fn report_left_out(&self) {
        if !self.left_out.is_empty() {
            println!("left out: {}", self.left_out.join(", "));
        }
    }
}

/// Prints every counterpart with its programs, their variables, and where it comes from.
pub(crate) fn list() {
    for counterpart in COUNTERPARTS {
        let source = match counterpart.recipe {
            Recipe::Apt(packages) => format!("Debian: {}", packages.join(" ")),
            Recipe::Pip { package, version } => format!("PyPI: {package} {version}"),
            Recipe::Wheel { package, version, .. } => format!("PyPI: {package} {version}"),
            _ => "unknown".to_owned(),
        };
        let programs: Vec<String> =
            counterpart.programs.iter().map(|program| format!("{} ({})", program.name, program.variable)).collect();
        println!("{:<16}{}; {source}", counterpart.name, programs.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_kept_once() {
        let selection = Selection::parse("nginx, bind,", &["sshd".to_owned(), "bind".to_owned()]).unwrap();
        assert_eq!(selection.variable(), "nginx,bind,sshd");
        assert_eq!(Selection::parse("", &[]).unwrap().variable(), "");
        let Err(error) = Selection::parse("", &["bnid".to_owned()]) else { panic!("a wrong name was accepted") };
        assert!(error.contains("bnid") && error.contains("acme2certifier"), "{error}");
    }
}
