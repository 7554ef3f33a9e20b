//! How a simulated Windows host is described before it starts.

use std::sync::Arc;

use serde_json::Value;

use super::{
    script::{Bootstrap, ScriptCall, ScriptMatcher, ScriptOutput, Scripts},
    windows::{Windows, WindowsError},
};

/// Describes a [`WinRmSim`](super::WinRmSim); made by [`WinRmSim::builder`](super::WinRmSim::builder).
#[derive(Clone, Debug)]
#[must_use = "a simulator exists only once it is started"]
pub struct WinRmSimBuilder {
    pub(super) windows: Windows,
    pub(super) scripts: Scripts,
}

impl Default for WinRmSimBuilder {
    fn default() -> Self {
        Self { windows: Windows::new(20_348), scripts: Scripts::default() }
    }
}

impl WinRmSimBuilder {
    /// The build of Windows; 20348 (Server 2022) unless told otherwise.
    pub fn build(mut self, build: u32) -> Self {
        self.windows.set_build(build);
        self
    }

    /// Arranges the host before it starts.
    pub fn windows(mut self, arrange: impl FnOnce(&mut Windows)) -> Self {
        arrange(&mut self.windows);
        self
    }

    /// Runs `handler` for the commands that `matcher` is for. Of several, the first that was registered runs; what is
    /// built in comes last.
    ///
    /// A PowerShell script runs when its standard input has ended if its text reads that (`[Console]::In`,
    /// `OpenStandardInput`, `$input`, `-Command -`), and at once otherwise. Another program runs at once.
    pub fn script(
        mut self,
        matcher: ScriptMatcher,
        handler: impl Fn(&ScriptCall, &mut Windows) -> ScriptOutput + Send + Sync + 'static,
    ) -> Self {
        self.scripts.add(matcher, Arc::new(handler));
        self
    }

    /// Runs `twin` for PowerShell scripts that begin with `# certlib:NAME`: JSON in and JSON out. The JSON is the
    /// standard input and one line of standard output, and an error is thrown (CLIXML, exit code 1), unless a
    /// [`Bootstrap`] does it another way.
    pub fn twin(
        mut self,
        name: &str,
        twin: impl Fn(&Value, &mut Windows) -> Result<Value, WindowsError> + Send + Sync + 'static,
    ) -> Self {
        self.scripts.add_twin(name, Arc::new(twin));
        self
    }

    /// Understands the scripts that `matcher` is for as ones that fetch the real script from standard input. The real
    /// one then counts: its marker, its handler or twin, and its text in the history.
    pub fn bootstrap(mut self, matcher: ScriptMatcher, bootstrap: Bootstrap) -> Self {
        self.scripts.add_bootstrap(matcher, bootstrap);
        self
    }
}
