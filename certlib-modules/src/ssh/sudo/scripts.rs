//! What root's shell is told to do.
//!
//! A service that owns the directory of its key could otherwise put a link in the place of a file while root is at work
//! there, and have root write to any file of the host. So each script that touches files first [walks](walking) to the
//! directory, one component at a time, with the shell's own working directory:
//! - Each directory, from `/` on, is root's, and writable by nobody else; or sticky, as `/tmp` is, and what is used in
//!   it is root's.
//! - Each symbolic link is root's.
//!
//! Nobody but root can then change the way, nor move the directory that the shell is in from under it. What the walk is
//! told is never a path to be looked up again: from there on, names are those of the directory itself.
//!
//! Scripts use what POSIX, GNU and BusyBox have in common, and `stat -c` and `readlink`, which both have.

pub(super) const ABSENT: u32 = 60;
pub(super) const DANGLING: u32 = 61;
pub(super) const NOT_A_FILE: u32 = 62;
pub(super) const TOO_LARGE: u32 = 63;
pub(super) const NO_DIRECTORY: u32 = 64;
pub(super) const UNREADABLE: u32 = 65;
pub(super) const UNWRITABLE: u32 = 66;
pub(super) const OWNER_REFUSED: u32 = 67;
pub(super) const UNPROTECTED: u32 = 68;
pub(super) const FOREIGN_LINK: u32 = 69;

/// Puts what walks to a file before a script.
///
/// `walk PATH` goes to the directory of the file, links followed, and leaves there: `name`, the file's name; `there`,
/// whether there is anything of this name; `followed`, whether the path itself was a link; `open`, whether others may
/// add to the directory. When a directory is missing, the script ends with the status `none`.
macro_rules! walking {
    ($script:literal) => {
        concat!(
            r#"
none=64
trusted() { [ "$1" = 0 ]; }
gone() { [ -z "$followed" ] || exit 61; exit $none; }
look() {
    facts=$(stat -c "0%a %u" .) || exit 65
    trusted "${facts#* }" || exit 68
    open=
    if [ $((${facts% *} & 0022)) != 0 ]; then
        [ $((${facts% *} & 01000)) != 0 ] || exit 68
        open=yes
    fi
}
walk() {
    rest=${1#/} links=0 followed=
    cd / || exit 65
    look
    while :; do
        name=${rest%%/*}
        case $rest in
        */*) rest=${rest#*/} last= ;;
        *) rest= last=yes ;;
        esac
        [ -n "$name" ] || name=.
        there=yes
        owner=$(stat -c %u -- "./$name" 2>/dev/null) || there=
        if [ -n "$there" ] && [ -L "./$name" ]; then
            trusted "$owner" || exit 69
            links=$((links + 1))
            [ $links -le 40 ] || exit 61
            target=$(readlink -- "./$name") || exit 65
            case $target in /*) cd / || exit 65; look ;; esac
            if [ -n "$last" ]; then followed=yes rest=$target; else rest=$target/$rest; fi
            continue
        fi
        [ "$open$there" != yesyes ] || trusted "$owner" || exit 68
        [ -z "$last" ] || return 0
        [ -n "$there" ] || gone
        cd -P -- "./$name" 2>/dev/null || gone
        look
    done
}
"#,
            $script
        )
    };
}

/// `PATH LIMIT`: mode, user, group and real path, a NUL, and the content.
pub(super) const OBSERVE: &str = walking!(
    r#"
none=60
walk "$1"
[ -n "$there" ] || gone
[ -f "./$name" ] || exit 62
[ "$(stat -c %s -- "./$name")" -le "$2" ] || exit 63
facts=$(stat -c "%a %u %g" -- "./$name") || exit 65
real=$1
if [ -n "$followed" ]; then here=$(pwd -P); real=${here%/}/$name; fi
printf "%s %s\0" "$facts" "$real"
cat -- "./$name" || exit 65
"#
);

/// `PATH MODE OWNER REQUIRED`, the content on standard input: whether the owner is the one asked for.
///
/// The file is opened once; its owner and mode are set by way of the open file, whatever its name leads to meanwhile. In a
/// sticky directory it has to stay root's: another owner could put something else in its place.
pub(super) const STAGE: &str = walking!(
    r#"
put() {
    at=/proc/self/fd/3
    [ -e $at ] || at=/dev/fd/3
    [ -f $at ] || exit 66
    cat >&3 || exit 66
    owner=kept
    if [ -n "$3" ] && ! chown -- "$3" $at 2>/dev/null; then
        [ "$4" = no ] || exit 67
        owner=lost
    fi
    chmod -- "$2" $at || exit 66
    sync "./$name" 2>/dev/null
    echo "$owner"
}
umask 077
walk "$1"
[ -z "$there$followed" ] || exit 66
if [ -n "$open" ]; then case $3 in "" | 0 | 0:* | :*) ;; *) exit 68 ;; esac; fi
set -C
put "$@" 3>"./$name" || exit 66
"#
);

/// `FROM TO`, in one directory: whether the file has the label that belongs there, where SELinux is enabled.
///
/// Without `mv -T`, a directory in the place of the file would be moved into.
pub(super) const REPLACE: &str = walking!(
    r#"
[ "${1%/*}" = "${2%/*}" ] || exit 66
walk "${2%/*}/."
here=$(pwd -P)
from=${here%/}/${1##*/} to=${here%/}/${2##*/}
if [ -L "$to" ]; then trusted "$(stat -c %u -- "$to")" || exit 69; fi
label=kept
selinux=no
if [ -e /sys/fs/selinux/enforce ] || selinuxenabled 2>/dev/null; then selinux=yes; fi
[ -e "$to" ] && ! [ -L "$to" ]; is_new=$?
if [ $selinux$is_new = yes0 ]; then chcon -h --reference="$to" -- "$from" 2>/dev/null || label=lost; fi
if ! mv -f -T -- "$from" "$to" 2>/dev/null; then
    [ -z "$open" ] && ! [ -d "$to" ] || exit 66
    mv -f -- "$from" "$to" || exit 66
fi
if [ $selinux$is_new = yes1 ]; then restorecon -- "$to" 2>/dev/null || label=lost; fi
echo $label
"#
);

/// `PATH`
pub(super) const REMOVE: &str = walking!(
    r#"
none=0
walk "${1%/*}/."
rm -f -- "./${1##*/}" || exit 66
"#
);

/// `PATH`: a table whose last line has the free blocks of 1 KiB in its fourth column.
pub(super) const FREE_SPACE: &str = r#"[ -d "$1" ] || exit 64; df -P -k -- "$1" 2>/dev/null || :"#;

/// `PATH`: where it really is.
pub(super) const REAL_DIRECTORY: &str = r#"cd -P -- "$1" 2>/dev/null || exit 64; pwd -P"#;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Output, Stdio};

    use tempfile::TempDir;

    use super::*;
    use crate::ssh::sudo::{free, read};

    /// Somebody who is not root.
    const SERVICE: u32 = 54_321;

    /// A folder that is protected where the tests are run by root; elsewhere, whoever runs them is taken for root.
    struct Folder(TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn owner(&self) -> u32 {
            fs::metadata(self.0.path()).unwrap().uid()
        }

        fn start(&self, script: &str, arguments: &[&str]) -> Child {
            let trusted = format!(r#"trusted() {{ [ "$1" = 0 ] || [ "$1" = {} ]; }}"#, self.owner());
            let script = script.replace(r#"trusted() { [ "$1" = 0 ]; }"#, &trusted);
            start(&script, arguments)
        }

        fn run(&self, script: &str, arguments: &[&str], input: &[u8]) -> Output {
            finish(self.start(script, arguments), input)
        }
    }

    /// Runs a script as the host's shell would, without `sudo`.
    fn start(script: &str, arguments: &[&str]) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh"]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn finish(mut child: Child, input: &[u8]) -> Output {
        // One that has ended already reads nothing.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    fn status(output: &Output) -> u32 {
        output.status.code().unwrap().try_into().unwrap()
    }

    fn text(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    #[test]
    fn files_are_observed() {
        let folder = Folder::new();
        let at = |name: &str| folder.at(name);
        fs::write(at("it's $(odd)"), b"a\0b\n\n").unwrap();
        symlink("it's $(odd)", at("link")).unwrap();
        fs::create_dir(at("below")).unwrap();
        symlink("below/../below", at("way")).unwrap();
        symlink(at("way/../link"), at("below/far")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("round", at("round")).unwrap();
        for link in ["link", "way/far"] {
            let file = read(&folder.run(OBSERVE, &[text(&at(link)), "5"], b"").stdout).unwrap();
            assert_eq!(file.content.expose(), b"a\0b\n\n");
            let real = fs::canonicalize(at(link)).unwrap();
            let metadata = fs::metadata(&real).unwrap();
            assert_eq!((file.real.as_str(), file.uid, file.gid), (text(&real), metadata.uid(), metadata.gid()));
            assert_eq!(file.mode, metadata.mode() & 0o7777);
        }
        let plain = at("way/../it's $(odd)");
        assert_eq!(read(&folder.run(OBSERVE, &[text(&plain), "5"], b"").stdout).unwrap().real, text(&plain));
        for (name, code) in [
            ("none", ABSENT),
            ("none/below", ABSENT),
            ("way/none", ABSENT),
            ("dangling", DANGLING),
            ("round", DANGLING),
            ("below", NOT_A_FILE),
            ("way", NOT_A_FILE),
            ("", NOT_A_FILE),
            ("link", TOO_LARGE),
        ] {
            assert_eq!(status(&folder.run(OBSERVE, &[text(&at(name)), "4"], b"")), code, "{name}");
        }
        assert!(read(b"644 0 0 /a").is_none() && read(b"").is_none() && read(b"rw 0 0 /a\0x").is_none());
    }

    #[test]
    fn files_are_staged_and_moved() {
        let folder = Folder::new();
        let at = |name: &str| folder.at(name);
        let me = fs::metadata(folder.0.path()).unwrap();
        let owner = format!("{}:{}", me.uid(), me.gid());
        let stage = |mode: &str, owner: &str, required: &str| {
            folder.run(STAGE, &[text(&at("new")), mode, owner, required], b"k\0y")
        };
        assert_eq!(stage("0640", &owner, "yes").stdout, b"kept\n");
        assert_eq!(fs::read(at("new")).unwrap(), b"k\0y");
        assert_eq!(fs::metadata(at("new")).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(status(&stage("0640", "", "no")), UNWRITABLE, "it never writes over another");
        fs::remove_file(at("new")).unwrap();
        assert_eq!(status(&stage("0640", "no-such-user", "yes")), OWNER_REFUSED);
        fs::remove_file(at("new")).unwrap();
        assert_eq!(stage("0600", "no-such-user", "no").stdout, b"lost\n");
        fs::write(at("old"), "old").unwrap();
        let replace = |to: &str| status(&folder.run(REPLACE, &[text(&at("new")), text(&at(to))], b""));
        assert_eq!(replace("old"), 0);
        assert_eq!(fs::read(at("old")).unwrap(), b"k\0y");
        assert_eq!(replace("old"), UNWRITABLE);
        for name in ["old", "old", "none/below"] {
            assert_eq!(status(&folder.run(REMOVE, &[text(&at(name))], b"")), 0);
        }
        assert!(!at("old").exists());
        let below = at("none/below");
        assert_eq!(status(&folder.run(STAGE, &[text(&below), "0600", "", "no"], b"")), NO_DIRECTORY);
    }

    #[test]
    fn nothing_is_moved_into_a_directory() {
        let folder = Folder::new();
        let at = |name: &str| folder.at(name);
        fs::create_dir(at("inside")).unwrap();
        symlink("inside", at("link")).unwrap();
        let path = format!("PATH='{}:/usr/bin:/bin'", text(&at("bin")));
        // As an mv that knows no -T does.
        fs::create_dir(at("bin")).unwrap();
        let mv = "#!/bin/sh\n[ \"$2\" = -T ] && exit 1\nexec /bin/mv \"$@\"\n";
        fs::write(at("bin/mv"), mv).unwrap();
        fs::set_permissions(at("bin/mv"), fs::Permissions::from_mode(0o755)).unwrap();
        for old in [true, false] {
            let script = if old { format!("{path}{REPLACE}") } else { REPLACE.to_owned() };
            let replace = |to: &str| {
                fs::write(at("new"), "new").unwrap();
                status(&folder.run(&script, &[text(&at("new")), text(&at(to))], b""))
            };
            assert_eq!(replace("inside"), UNWRITABLE);
            assert_eq!(replace("link"), if old { UNWRITABLE } else { 0 }, "the link itself is replaced");
            assert_eq!(fs::read_dir(at("inside")).unwrap().count(), 0);
            assert_eq!(replace("file"), 0);
            assert_eq!(fs::read(at("file")).unwrap(), b"new");
        }
    }

    /// A service may own the directory of its key, or one above it: root does not work there.
    #[test]
    fn directories_that_others_can_change_are_refused() {
        let folder = Folder::new();
        let at = |name: &str| folder.at(name);
        let root = folder.owner() == 0;
        let all = |path: &Path| {
            let (path, other) = (text(path), format!("{}.new", text(path)));
            let stage = run_as_root(STAGE, &[&other, "0644", "0:0", "no"]);
            let replace = run_as_root(REPLACE, &[&other, path]);
            [run_as_root(OBSERVE, &[path, "9"]), stage, replace, run_as_root(REMOVE, &[path])]
        };
        for (mode, owner) in [(0o755, SERVICE), (0o1777, SERVICE), (0o775, 0), (0o757, 0)] {
            let place = at("place");
            fs::create_dir_all(place.join("below")).unwrap();
            fs::write(place.join("below/file"), "kept").unwrap();
            // Whoever is not root owns the folder anyway.
            if root {
                chown(&place, Some(owner), None).unwrap();
            }
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
            symlink("place/below", at("link")).unwrap();
            for path in ["place/file", "place/below/file", "place/none/file", "link/file"] {
                assert_eq!(all(&at(path)), [UNPROTECTED; 4], "{mode:o} {owner} {path}");
            }
            assert_eq!(fs::read(place.join("below/file")).unwrap(), b"kept");
            assert!(!place.join("file.new").exists() && !place.join("below/file.new").exists());
            fs::remove_file(at("link")).unwrap();
            fs::remove_dir_all(&place).unwrap();
        }
    }

    fn run_as_root(script: &str, arguments: &[&str]) -> u32 {
        status(&finish(start(script, arguments), b"key"))
    }

    /// In a sticky directory, others can add what they like.
    #[test]
    fn what_others_plant_in_a_sticky_directory_is_not_followed() {
        let folder = Folder::new();
        if folder.owner() != 0 {
            // To plant something as somebody else takes root; the directory itself is then refused above.
            return assert_eq!(run_as_root(OBSERVE, &[text(&folder.at("file")), "9"]), UNPROTECTED);
        }
        let at = |name: &str| folder.at(name);
        fs::write(at("shadow"), "secret").unwrap();
        fs::set_permissions(at("shadow"), fs::Permissions::from_mode(0o600)).unwrap();
        let place = at("sticky");
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o1777)).unwrap();
        let plant = |name: &str| {
            symlink(at("shadow"), place.join(name)).unwrap();
            lchown(place.join(name), Some(SERVICE), Some(SERVICE)).unwrap();
        };
        plant("key");
        symlink("..", place.join("way")).unwrap();
        lchown(place.join("way"), Some(SERVICE), Some(SERVICE)).unwrap();
        let [key, way] = [place.join("key"), place.join("way/shadow")];
        for path in [&key, &way] {
            assert_eq!(run_as_root(OBSERVE, &[text(path), "9"]), FOREIGN_LINK);
            assert_eq!(run_as_root(STAGE, &[text(path), "0644", "1:1", "yes"]), FOREIGN_LINK);
        }
        let new = place.join("new");
        assert_eq!(run_as_root(STAGE, &[text(&new), "0640", &SERVICE.to_string(), "yes"]), UNPROTECTED);
        assert!(!new.exists());
        assert_eq!(run_as_root(STAGE, &[text(&new), "0640", "0:0", "yes"]), 0);
        assert_eq!(run_as_root(REPLACE, &[text(&new), text(&key)]), FOREIGN_LINK);
        fs::write(place.join("theirs"), "x").unwrap();
        chown(place.join("theirs"), Some(SERVICE), None).unwrap();
        assert_eq!(run_as_root(OBSERVE, &[text(&place.join("theirs")), "9"]), UNPROTECTED);
        let fifo = place.join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert_eq!(run_as_root(STAGE, &[text(&fifo), "0644", "", "no"]), UNWRITABLE);
        let shadow = fs::metadata(at("shadow")).unwrap();
        assert_eq!((shadow.uid(), shadow.mode() & 0o7777), (0, 0o600));
        assert_eq!(fs::read(at("shadow")).unwrap(), b"secret");
    }

    /// The name is taken away while root's shell waits for the key: owner and mode are those of the file that was opened.
    #[test]
    fn a_link_planted_while_the_key_is_awaited_changes_nothing() {
        let folder = Folder::new();
        let at = |name: &str| folder.at(name);
        fs::write(at("shadow"), "secret").unwrap();
        fs::set_permissions(at("shadow"), fs::Permissions::from_mode(0o600)).unwrap();
        let child = folder.start(STAGE, &[text(&at("new")), "0666", "", "no"]);
        while !at("new").exists() {
            std::thread::yield_now();
        }
        fs::rename(at("new"), at("moved")).unwrap();
        symlink(at("shadow"), at("new")).unwrap();
        finish(child, b"key");
        let mode = |name: &str| fs::metadata(at(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("shadow"), mode("moved")), (0o600, 0o666));
        assert_eq!(fs::read(at("shadow")).unwrap(), b"secret");
        assert_eq!(fs::read(at("moved")).unwrap(), b"key");
    }

    /// As on a host with SELinux, as far as commands can tell: `chcon` and `restorecon` write down what they are given.
    #[test]
    fn labels_are_kept_where_there_are_any() {
        let folder = Folder::new();
        let real = fs::canonicalize(folder.0.path()).unwrap();
        let at = |name: &str| real.join(name);
        let (log, new, old) = (at("log"), at("new"), at("old"));
        fs::create_dir(at("bin")).unwrap();
        let put = |name: &str, script: &str| {
            fs::write(at("bin").join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(at("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        let path = format!("PATH='{}:/usr/bin:/bin'", text(&at("bin")));
        let replace = || {
            fs::write(&new, "new").unwrap();
            let output = folder.run(&format!("{path}{REPLACE}"), &[text(&new), text(&old)], b"");
            assert_eq!(fs::read(&old).unwrap(), b"new");
            let commands = fs::read_to_string(&log).unwrap_or_default();
            let _ = fs::remove_file(&log);
            (String::from_utf8(output.stdout).unwrap(), commands)
        };
        put("selinuxenabled", "exit 1");
        for name in ["chcon", "restorecon"] {
            put(name, &format!("echo {name} \"$@\" >>'{}'", text(&log)));
        }
        assert_eq!(replace(), ("kept\n".into(), String::new()), "SELinux is off");
        put("selinuxenabled", "exit 0");
        let copied = format!("chcon -h --reference={} -- {}\n", text(&old), text(&new));
        assert_eq!(replace(), ("kept\n".into(), copied));
        fs::remove_file(&old).unwrap();
        assert_eq!(replace(), ("kept\n".into(), format!("restorecon -- {}\n", text(&old))));
        put("chcon", "exit 1");
        assert_eq!(replace(), ("lost\n".into(), String::new()), "delivered all the same");
    }

    #[test]
    fn directories_are_measured() {
        let folder = Folder::new();
        symlink(folder.0.path(), folder.at("link")).unwrap();
        let link = folder.at("link");
        let real = format!("{}\n", fs::canonicalize(folder.0.path()).unwrap().display());
        assert_eq!(folder.run(REAL_DIRECTORY, &[text(&link)], b"").stdout, real.as_bytes());
        let table = folder.run(FREE_SPACE, &[text(&link)], b"").stdout;
        assert!(free(&String::from_utf8(table).unwrap()).is_some_and(|free| free > 0));
        for script in [REAL_DIRECTORY, FREE_SPACE] {
            assert_eq!(status(&folder.run(script, &[text(&folder.at("none"))], b"")), NO_DIRECTORY);
        }
        assert_eq!(free("Filesystem 1024-blocks Used Available\nnone - - - -\n"), None);
    }
}
