//! Which file systems SQLite cannot be trusted on.

use std::path::Path;

/// File systems whose locks or shared memory do not reach, or do not reliably reach, the other hosts.
const NETWORK: [&str; 20] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ncpfs",
    "9p",
    "afs",
    "ceph",
    "coda",
    "glusterfs",
    "lustre",
    "gpfs",
    "ocfs2",
    "gfs2",
    "beegfs",
    "orangefs",
    "davfs",
    "vboxsf",
    "vmhgfs",
];

/// The type of the network file system that `directory`, an absolute path, is on; `None` if it is on none that can be
/// recognised. Only Linux tells.
pub(super) fn network_type(directory: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    network_type_in(&mounts, directory)
}

fn network_type_in(mounts: &str, directory: &Path) -> Option<String> {
    // Of several mounts on the same path the last one hides the others.
    let (_, kind) = mounts
        .lines()
        .filter_map(mount)
        .filter(|(point, _)| directory.starts_with(point))
        .max_by_key(|(point, _)| Path::new(point).components().count())?;
    // A FUSE mount says which one it is: `fuse.sshfs`. Local ones are fine.
    let network = NETWORK.contains(&kind) || matches!(kind.strip_prefix("fuse."), Some(name) if remote_fuse(name));
    network.then(|| kind.to_owned())
}

fn remote_fuse(name: &str) -> bool {
    NETWORK.contains(&name) || ["sshfs", "s3fs", "gcsfuse", "rclone", "vmhgfs-fuse", "juicefs"].contains(&name)
}

/// Mount point and type of a line of `mountinfo`: the fifth field, and the first after the separator.
fn mount(line: &str) -> Option<(String, &str)> {
    let (mount, source) = line.split_once(" - ")?;
    let point = mount.split(' ').nth(4)?;
    let unescaped = point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    Some((unescaped, source.split(' ').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:40 / /srv rw shared:1 - nfs4 filer:/srv rw
29 28 254:1 / /srv/local\\040disk rw - xfs /dev/vdb rw
30 27 0:41 / /home/ada/remote rw - fuse.sshfs ada@host: rw
31 27 0:42 / /home/ada/zip rw - fuse.archivemount zip rw
32 27 0:43 / /over rw - ext4 /dev/vdc rw
33 27 0:44 / /over rw - cifs //filer/over rw
";

    #[test]
    fn the_innermost_mount_decides() {
        let at = |path: &str| network_type_in(MOUNTS, Path::new(path));
        assert_eq!(at("/var/lib/certlib"), None);
        assert_eq!(at("/srv/certlib").as_deref(), Some("nfs4"));
        assert_eq!(at("/srvother"), None);
        assert_eq!(at("/srv/local disk/certlib"), None);
        assert_eq!(at("/home/ada/remote").as_deref(), Some("fuse.sshfs"));
        assert_eq!(at("/home/ada/zip/x"), None);
        assert_eq!(at("/over/x").as_deref(), Some("cifs"));
        assert_eq!(network_type_in("garbage\n\n - \n", Path::new("/")), None);
    }
}
