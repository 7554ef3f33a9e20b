//! Names of users and groups to numbers, by the target's own files.

use std::collections::HashMap;

use certlib_core::{Error, Result};

use super::filesystem::{FileSystem, Found};
use super::layout::{Format, Output};

/// The largest user database that is read, in bytes.
const LIMIT: usize = 4 * 1024 * 1024;

/// The wanted owner and group of each output, as numbers.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

impl Owners {
    /// Resolves every name that `outputs` use. Reads nothing when all are numbers or none is given.
    ///
    /// # Errors
    /// `Validation` `owner_unknown`.
    pub(crate) async fn resolve(fs: &dyn FileSystem, outputs: &[(Format, &Output)]) -> Result<Self> {
        let users = outputs.iter().filter_map(|(_, output)| output.owner.as_deref());
        let groups = outputs.iter().filter_map(|(_, output)| output.group.as_deref());
        Ok(Self {
            users: numbers(fs, "/etc/passwd", users.collect()).await?,
            groups: numbers(fs, "/etc/group", groups.collect()).await?,
        })
    }

    pub(crate) fn uid(&self, output: &Output) -> Option<u32> {
        self.users.get(output.owner.as_deref()?).copied()
    }

    pub(crate) fn gid(&self, output: &Output) -> Option<u32> {
        self.groups.get(output.group.as_deref()?).copied()
    }
}

async fn numbers(fs: &dyn FileSystem, database: &'static str, names: Vec<&str>) -> Result<HashMap<String, u32>> {
    let mut numbers = HashMap::new();
    let mut text = None;
    for name in names {
        let number = match name.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                if text.is_none() {
                    text = Some(match fs.observe(database, LIMIT).await? {
                        Found::File(file) => String::from_utf8_lossy(file.content.expose()).into_owned(),
                        Found::Absent => String::new(),
                    });
                }
                text.as_deref().and_then(|text| look_up(text, name))
            }
        };
        let number = number.ok_or_else(|| {
            Error::validation("files.owner", "owner_unknown", "the target has no user or group of this name")
                .with("name", name)
                .with("database", database)
        })?;
        numbers.insert(name.to_owned(), number);
    }
    Ok(numbers)
}

/// The number of `name`: the third field of its line, in both databases.
fn look_up(text: &str, name: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split(':').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nwww:x:30:31::/:/x\nwww-data:x:33:34:www:/var/www:/bin/sh\n";
        assert_eq!(look_up(passwd, "www-data"), Some(33));
        assert_eq!(look_up(passwd, "www"), Some(30));
        assert_eq!(look_up(passwd, "ww"), None);
        assert_eq!(look_up("broken:x:y", "broken"), None);
        assert_eq!(look_up("broken", "broken"), None);
    }
}
