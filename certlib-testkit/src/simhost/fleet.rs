//! Many hosts at once.

use std::{ops::Deref, slice};

use futures::{StreamExt, TryStreamExt, stream};

use super::{Error, SimHost, SimHostBuilder};

/// How many hosts start at the same time.
const STARTING: usize = 64;

/// Hosts that live and stop together. Each costs two descriptors and one task while idle, so the limit is usually
/// the number of open files a process may have (`ulimit -n`).
///
/// Behaves as a slice of [`SimHost`].
#[derive(Debug)]
pub struct SimFleet {
    hosts: Vec<SimHost>,
}

impl SimFleet {
    /// Starts `count` hosts; `describe` is asked once for each, with its index from 0.
    ///
    /// # Errors
    /// The first error of any [`SimHostBuilder::start`]; no host is left running then.
    ///
    /// Cancel safe: hosts started so far stop.
    pub async fn start(count: usize, describe: impl FnMut(usize) -> SimHostBuilder) -> Result<Self, Error> {
        let hosts =
            stream::iter((0..count).map(describe).map(SimHostBuilder::start)).buffered(STARTING).try_collect().await?;
        Ok(Self { hosts })
    }

    /// The hosts, each on its own.
    #[must_use]
    pub fn into_hosts(self) -> Vec<SimHost> {
        self.hosts
    }

    /// Stops all hosts; returns when none listens any more.
    pub async fn stop(self) {
        // Told first, then waited for, so that they stop side by side.
        for host in &self.hosts {
            host.begin_stop();
        }
        for host in self.hosts {
            host.stop().await;
        }
    }
}

impl Deref for SimFleet {
    type Target = [SimHost];

    fn deref(&self) -> &[SimHost] {
        &self.hosts
    }
}

impl<'a> IntoIterator for &'a SimFleet {
    type Item = &'a SimHost;
    type IntoIter = slice::Iter<'a, SimHost>;

    fn into_iter(self) -> Self::IntoIter {
        self.hosts.iter()
    }
}
