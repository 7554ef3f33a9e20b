//! The file system: drives and shares, access lists as SDDL text, attributes, and files that somebody has open.

mod node;

use std::collections::{BTreeMap, BTreeSet};

pub use self::node::FileInfo;
use self::node::{INHERITED, Node};
use super::{
    error::{Trips, WindowsError, WindowsResult},
    path::WinPath,
};
use crate::tls::fingerprint;

/// The room of a drive unless told otherwise.
const ROOM: u64 = 10 << 30;

#[derive(Clone, Debug)]
struct Volume {
    room: u64,
    reachable: bool,
    writable: bool,
}

/// Everything that has a path. Paths are absolute (`C:\a`, `\\server\share\a`), case does not matter.
#[derive(Clone, Debug)]
pub struct FileSystem {
    volumes: BTreeMap<String, Volume>,
    nodes: BTreeMap<String, Node>,
    locked: BTreeSet<String>,
    trips: Trips,
}

impl FileSystem {
    pub(super) fn new() -> Self {
        let mut files =
            Self { volumes: BTreeMap::new(), nodes: BTreeMap::new(), locked: BTreeSet::new(), trips: Trips::default() };
        files.add_volume("C:");
        for path in ["C:\\Windows\\Temp", "C:\\Windows\\System32", "C:\\Users\\Administrator", "C:\\inetpub\\wwwroot"] {
            // Constant paths on a volume that was just made.
            let _ = files.create_directories(path);
        }
        files
    }

    /// Adds a drive (`D:`) or a share (`\\server\share`), empty.
    pub fn add_volume(&mut self, volume: &str) {
        if let Ok(path) = WinPath::parse(volume) {
            let key = path.volume.to_lowercase();
            self.volumes.insert(key, Volume { room: ROOM, reachable: true, writable: true });
        }
    }

    /// Says whether a share can be reached at all: a second hop without delegation cannot.
    pub fn set_reachable(&mut self, volume: &str, reachable: bool) {
        self.volume_mut(volume, |volume| volume.reachable = reachable);
    }

    /// Says whether anybody may write to a volume.
    pub fn set_writable(&mut self, volume: &str, writable: bool) {
        self.volume_mut(volume, |volume| volume.writable = writable);
    }

    /// Sets how many bytes are left on a volume.
    pub fn set_room(&mut self, volume: &str, bytes: u64) {
        self.volume_mut(volume, |volume| volume.room = bytes);
    }

    /// Makes operations that change something at or below a path fail: the first `skip` pass, then `times` fail.
    pub fn fail(&mut self, path: &str, skip: u32, times: u32, error: WindowsError) {
        let target = WinPath::parse(path).map_or_else(|_| path.to_owned(), |path| path.display());
        self.trips.set(&target, skip, times, error);
    }

    /// Forgets what [`FileSystem::fail`] was told.
    pub fn clear_failures(&mut self) {
        self.trips.clear();
    }

    /// Another process opens a file for itself, or (`false`) closes it: neither reading nor changing it works.
    pub fn set_locked(&mut self, path: &str, locked: bool) {
        if let Ok(path) = WinPath::parse(path) {
            if locked {
                self.locked.insert(path.key());
            } else {
                self.locked.remove(&path.key());
            }
        }
    }

    /// Puts a file there, whatever the state, with the directories that lead to it: for setting a host up.
    ///
    /// # Errors
    /// As [`WindowsError`] says, for what is no path and for a volume that does not exist.
    pub fn put(&mut self, path: &str, bytes: impl Into<Vec<u8>>) -> WindowsResult<()> {
        let path = WinPath::parse(path)?;
        self.volume(&path)?;
        if let Some(parent) = path.parent() {
            self.create_directories(&parent.display())?;
        }
        let sddl = self.nodes.get(&path.key()).map_or_else(|| INHERITED.to_owned(), |node| node.sddl.clone());
        self.insert(&path, Some(bytes.into()), sddl);
        Ok(())
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// When it is not there, is a directory, or somebody has it open.
    pub fn read(&self, path: &str) -> WindowsResult<Vec<u8>> {
        let path = WinPath::parse(path)?;
        self.volume(&path)?;
        let node = self.node(&path)?;
        let Some(content) = &node.content else { return Err(WindowsError::access_denied(&path.display())) };
        self.unlocked(&path)?;
        Ok(content.to_vec())
    }

    /// SHA-256 of a file, lower-case hexadecimal.
    ///
    /// # Errors
    /// As [`FileSystem::read`].
    pub fn sha256(&self, path: &str) -> WindowsResult<String> {
        self.read(path).map(|bytes| fingerprint(&bytes))
    }

    /// Creates or overwrites a file. A new one inherits its access list, an old one keeps it.
    ///
    /// # Errors
    /// When its directory is missing, it is read-only or open elsewhere, or the volume is full or read-only.
    pub fn write(&mut self, path: &str, bytes: &[u8]) -> WindowsResult<()> {
        let path = WinPath::parse(path)?;
        self.prepare_change(&path)?;
        self.parent_of(&path)?;
        let old = self.nodes.get(&path.key());
        if old.is_some_and(|node| node.content.is_none() || node.read_only) {
            return Err(WindowsError::access_denied(&path.display()));
        }
        let sddl = old.map_or_else(|| INHERITED.to_owned(), |node| node.sddl.clone());
        let freed = old.and_then(|node| node.content.as_ref()).map_or(0, |bytes| bytes.len() as u64);
        self.take_room(&path, bytes.len() as u64, freed)?;
        self.insert(&path, Some(bytes.to_vec()), sddl);
        Ok(())
    }

    /// Creates a file that must not be there yet.
    ///
    /// # Errors
    /// `0x800700B7` when it is; otherwise as [`FileSystem::write`].
    pub fn create_new(&mut self, path: &str, bytes: &[u8]) -> WindowsResult<()> {
        if self.exists(path) {
            return Err(WindowsError::already_exists(path));
        }
        self.write(path, bytes)
    }

    /// Adds to the end of a file, creating it if needed.
    ///
    /// # Errors
    /// As [`FileSystem::write`].
    pub fn append(&mut self, path: &str, bytes: &[u8]) -> WindowsResult<()> {
        let mut all = if self.exists(path) { self.read(path)? } else { Vec::new() };
        all.extend_from_slice(bytes);
        self.write(path, &all)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it is not there, is a directory, is read-only, or somebody has it open.
    pub fn delete(&mut self, path: &str) -> WindowsResult<()> {
        let path = WinPath::parse(path)?;
        self.prepare_change(&path)?;
        let node = self.node(&path)?;
        let Some(size) = node.content.as_ref().map(|bytes| bytes.len() as u64).filter(|_| !node.read_only) else {
            return Err(WindowsError::access_denied(&path.display()));
        };
        self.nodes.remove(&path.key());
        self.take_room(&path, 0, size)
    }

    /// Gives a file or directory another name on the same volume; never replaces anything.
    ///
    /// # Errors
    /// When there is nothing to move, the new name is taken, or the volumes differ.
    pub fn rename(&mut self, from: &str, to: &str) -> WindowsResult<()> {
        let (from, to) = (WinPath::parse(from)?, WinPath::parse(to)?);
        self.prepare_change(&from)?;
        self.prepare_change(&to)?;
        self.node(&from)?;
        self.parent_of(&to)?;
        if !from.same_volume(&to) {
            return Err(WindowsError::not_same_device(&to.display()));
        }
        if from.key() != to.key() && self.nodes.contains_key(&to.key()) {
            return Err(WindowsError::already_exists(&to.display()));
        }
        let prefix = format!("{}\\", from.key());
        let moved: Vec<String> =
            self.nodes.keys().filter(|key| **key == from.key() || key.starts_with(&prefix)).cloned().collect();
        for key in moved {
            if let Some(mut node) = self.nodes.remove(&key) {
                node.path = format!("{}{}", to.display(), &node.path[from.display().len()..]);
                self.nodes.insert(format!("{}{}", to.key(), &key[from.key().len()..]), node);
            }
        }
        Ok(())
    }

    /// What `File.Replace` does: `source` takes the place of `target` in one step, and the former content goes to
    /// `backup` if one is named. The access list of the target stays.
    ///
    /// # Errors
    /// When either file is missing, read-only or open elsewhere, or they lie on different volumes.
    pub fn replace(&mut self, source: &str, target: &str, backup: Option<&str>) -> WindowsResult<()> {
        let (source, target) = (WinPath::parse(source)?, WinPath::parse(target)?);
        let backup = backup.map(WinPath::parse).transpose()?;
        self.prepare_change(&source)?;
        self.prepare_change(&target)?;
        let new = self.node(&source)?.clone();
        let old = self.node(&target)?.clone();
        if new.content.is_none() || old.content.is_none() || old.read_only {
            return Err(WindowsError::access_denied(&target.display()));
        }
        for other in [Some(&source), backup.as_ref()].into_iter().flatten() {
            if !other.same_volume(&target) {
                return Err(WindowsError::not_same_device(&other.display()));
            }
        }
        if let Some(backup) = &backup {
            self.prepare_change(backup)?;
            self.parent_of(backup)?;
            let saved = Node { path: backup.display(), ..old.clone() };
            self.nodes.insert(backup.key(), saved);
        }
        self.nodes.remove(&source.key());
        self.nodes.insert(target.key(), Node { path: old.path, sddl: old.sddl, ..new });
        Ok(())
    }

    /// Copies a file; the copy inherits the access list of its directory.
    ///
    /// # Errors
    /// `0x800700B7` when the copy exists and may not be replaced; otherwise as reading and writing.
    pub fn copy(&mut self, from: &str, to: &str, replace: bool) -> WindowsResult<()> {
        if !replace && self.exists(to) {
            return Err(WindowsError::already_exists(to));
        }
        let bytes = self.read(from)?;
        self.write(to, &bytes)
    }

    /// Creates a directory and those that lead to it; fine when it is there.
    ///
    /// # Errors
    /// When a file is in the way, or nothing may be written there.
    pub fn create_directories(&mut self, path: &str) -> WindowsResult<()> {
        let path = WinPath::parse(path)?;
        self.volume(&path)?;
        for depth in 1..=path.names.len() {
            let part = WinPath { volume: path.volume.clone(), names: path.names[..depth].to_vec() };
            match self.nodes.get(&part.key()) {
                Some(node) if node.content.is_some() => return Err(WindowsError::already_exists(&part.display())),
                Some(_) => {}
                None => {
                    self.prepare_change(&part)?;
                    self.insert(&part, None, INHERITED.to_owned());
                }
            }
        }
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// When it is not there, is a file, or holds something.
    pub fn remove_directory(&mut self, path: &str) -> WindowsResult<()> {
        if !self.list(path)?.is_empty() {
            return Err(WindowsError::not_empty(path));
        }
        let path = WinPath::parse(path)?;
        self.prepare_change(&path)?;
        self.nodes.remove(&path.key());
        Ok(())
    }

    /// Whether something is at a path that can be reached.
    pub fn exists(&self, path: &str) -> bool {
        self.info(path).is_ok()
    }

    /// What is at a path.
    ///
    /// # Errors
    /// When nothing is.
    pub fn info(&self, path: &str) -> WindowsResult<FileInfo> {
        let path = WinPath::parse(path)?;
        self.volume(&path)?;
        if path.names.is_empty() {
            let root = Node::new(&path, None, INHERITED.to_owned());
            return Ok(root.info());
        }
        self.node(&path).map(Node::info)
    }

    /// What is directly inside a directory, by name.
    ///
    /// # Errors
    /// When it is not there, or is a file.
    pub fn list(&self, path: &str) -> WindowsResult<Vec<FileInfo>> {
        if !self.info(path)?.directory {
            return Err(WindowsError::invalid_name(path));
        }
        let prefix = format!("{}\\", WinPath::parse(path)?.key().trim_end_matches('\\'));
        let inside = self.nodes.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        Ok(inside.filter(|(key, _)| !key[prefix.len()..].contains('\\')).map(|(_, node)| node.info()).collect())
    }

    /// Everything there is, by path.
    pub fn all(&self) -> Vec<FileInfo> {
        self.nodes.values().map(Node::info).collect()
    }

    /// Sets owner and access list, SDDL.
    ///
    /// # Errors
    /// When nothing is there, or the text is no SDDL.
    pub fn set_sddl(&mut self, path: &str, sddl: &str) -> WindowsResult<()> {
        if !sddl.contains("D:") {
            return Err(WindowsError::invalid_parameter("The SDDL form of a security descriptor is invalid."));
        }
        let path = WinPath::parse(path)?;
        self.prepare_change(&path)?;
        self.node_mut(&path)?.sddl = sddl.to_owned();
        Ok(())
    }

    /// Sets or clears the read-only attribute.
    ///
    /// # Errors
    /// When nothing is there.
    pub fn set_read_only(&mut self, path: &str, read_only: bool) -> WindowsResult<()> {
        let path = WinPath::parse(path)?;
        self.prepare_change(&path)?;
        self.node_mut(&path)?.read_only = read_only;
        Ok(())
    }
}

impl FileSystem {
    fn volume(&self, path: &WinPath) -> WindowsResult<&Volume> {
        match self.volumes.get(&path.volume.to_lowercase()) {
            Some(volume) if volume.reachable => Ok(volume),
            None if !path.volume.starts_with('\\') => Err(WindowsError::path_not_found(&path.display())),
            _ => Err(WindowsError::network_path_not_found(&path.display())),
        }
    }

    fn volume_mut(&mut self, volume: &str, change: impl FnOnce(&mut Volume)) {
        let key = WinPath::parse(volume).map(|path| path.volume.to_lowercase()).unwrap_or_default();
        if let Some(volume) = self.volumes.get_mut(&key) {
            change(volume);
        }
    }

    fn node(&self, path: &WinPath) -> WindowsResult<&Node> {
        if let Some(node) = self.nodes.get(&path.key()) {
            return Ok(node);
        }
        self.parent_of(path)?;
        Err(WindowsError::file_not_found(&path.display()))
    }

    fn node_mut(&mut self, path: &WinPath) -> WindowsResult<&mut Node> {
        self.nodes.get_mut(&path.key()).ok_or_else(|| WindowsError::file_not_found(&path.display()))
    }

    fn parent_of(&self, path: &WinPath) -> WindowsResult<()> {
        let parent = path.parent().filter(|parent| !parent.names.is_empty());
        let there = |parent: WinPath| self.nodes.get(&parent.key()).is_some_and(|node| node.content.is_none());
        if parent.is_none_or(there) { Ok(()) } else { Err(WindowsError::path_not_found(&path.display())) }
    }

    fn unlocked(&self, path: &WinPath) -> WindowsResult<()> {
        if self.locked.contains(&path.key()) { Err(WindowsError::sharing_violation(&path.display())) } else { Ok(()) }
    }

    /// What every change begins with.
    fn prepare_change(&mut self, path: &WinPath) -> WindowsResult<()> {
        if !self.volume(path)?.writable {
            return Err(WindowsError::access_denied(&path.display()));
        }
        self.trips.check(&path.display())?;
        self.unlocked(path)
    }

    fn take_room(&mut self, path: &WinPath, taken: u64, freed: u64) -> WindowsResult<()> {
        let volume = self.volumes.get_mut(&path.volume.to_lowercase());
        let Some(volume) = volume else { return Err(WindowsError::path_not_found(&path.display())) };
        let available = volume.room + freed;
        volume.room = available.checked_sub(taken).ok_or_else(|| WindowsError::disk_full(&path.display()))?;
        Ok(())
    }

    fn insert(&mut self, path: &WinPath, content: Option<Vec<u8>>, sddl: String) {
        self.nodes.insert(path.key(), Node::new(path, content, sddl));
    }
}

#[cfg(test)]
mod tests;
