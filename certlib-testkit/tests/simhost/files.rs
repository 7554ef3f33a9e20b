//! SFTP as OpenSSH speaks it.

use certlib_testkit::simhost::FileKind;
use russh::ChannelMsg;
use russh_sftp::{
    client::RawSftpSession,
    protocol::{FileAttributes, OpenFlags, StatusCode},
};

use crate::support::*;

#[tokio::test]
async fn files_are_opened_read_and_written_as_in_version_3() {
    let host = builder().file("/srv/a", "0123456789", 0o644).start().await.unwrap();
    let sftp = connect(&host).await.unwrap().sftp().await;
    let (read, write, create) = (OpenFlags::READ, OpenFlags::WRITE, OpenFlags::CREATE);
    let none = FileAttributes::empty;

    assert_eq!(code(sftp.open("/srv/none", read, none()).await), StatusCode::NoSuchFile);
    assert_eq!(code(sftp.open("/none/a", write | create, none()).await), StatusCode::NoSuchFile);
    assert_eq!(code(sftp.open("/srv/a", write | create | OpenFlags::EXCLUDE, none()).await), StatusCode::Failure);
    assert_eq!(code(sftp.open("/srv", write, none()).await), StatusCode::Failure);

    let a = sftp.open("/srv/a", read | write, none()).await.unwrap().handle;
    assert_eq!(sftp.read(&a, 2, 3).await.unwrap().data, b"234");
    assert_eq!(sftp.read(&a, 8, 100).await.unwrap().data, b"89");
    assert_eq!(code(sftp.read(&a, 10, 1).await), StatusCode::Eof);
    sftp.write(&a, 4, b"xy".to_vec()).await.unwrap();
    assert_eq!(host.file("/srv/a").unwrap(), b"0123xy6789", "no truncation unless asked for");
    assert_eq!(sftp.fstat(&a).await.unwrap().attrs.size, Some(10));
    let shorter = FileAttributes { size: Some(4), ..none() };
    sftp.fsetstat(&a, shorter).await.unwrap();
    assert_eq!(host.file("/srv/a").unwrap(), b"0123");
    // The open file lives on when its name goes.
    sftp.remove("/srv/a").await.unwrap();
    assert_eq!(sftp.read(&a, 0, 10).await.unwrap().data, b"0123");
    sftp.close(&a).await.unwrap();
    assert_eq!(code(sftp.close(&a).await), StatusCode::NoSuchFile);

    let b = sftp.open("/srv/b", write | create, none()).await.unwrap().handle;
    assert_eq!(code(sftp.read(&b, 0, 1).await), StatusCode::NoSuchFile, "not opened for reading");
    assert_eq!(host.info("/srv/b").unwrap().mode, 0o644, "the umask applies");
    sftp.write(&b, 0, b"one".to_vec()).await.unwrap();
    let more = sftp.open("/srv/b", write | OpenFlags::APPEND, none()).await.unwrap().handle;
    sftp.write(&more, 0, b" two".to_vec()).await.unwrap();
    assert_eq!(host.file("/srv/b").unwrap(), b"one two");
    sftp.open("/srv/b", write | create | OpenFlags::TRUNCATE, none()).await.unwrap();
    assert_eq!(host.file("/srv/b").unwrap(), b"");
    let stamped = FileAttributes { atime: Some(5), mtime: Some(7), ..none() };
    sftp.setstat("/srv/b", stamped).await.unwrap();
    assert_eq!(sftp.stat("/srv/b").await.unwrap().attrs.mtime, Some(7));
}

#[tokio::test]
async fn names_links_and_directories_behave_as_on_a_disk() {
    let host = builder().file("/srv/a", "a", 0o644).file("/srv/b", "b", 0o600).start().await.unwrap();
    let sftp = connect(&host).await.unwrap().sftp().await;

    assert_eq!(code(sftp.rename("/srv/a", "/srv/b").await), StatusCode::Failure, "version 3 never replaces");
    sftp.hardlink("/srv/b", "/srv/b.bak").await.unwrap();
    posix_rename(&sftp, "/srv/a", "/srv/b").await.unwrap();
    assert_eq!(host.file("/srv/b").unwrap(), b"a");
    assert_eq!(host.file("/srv/b.bak").unwrap(), b"b");
    sftp.rename("/srv/b.bak", "/srv/c").await.unwrap();
    assert_eq!(code(sftp.rename("/srv/none", "/srv/d").await), StatusCode::NoSuchFile);

    // The target comes first on the wire, as OpenSSH has it.
    sftp.symlink("c", "/srv/link").await.unwrap();
    assert_eq!(host.info("/srv/link").unwrap().kind, FileKind::Symlink);
    assert_eq!(sftp.readlink("/srv/link").await.unwrap().files[0].filename, "c");
    assert_eq!(sftp.realpath("/srv/../srv/link").await.unwrap().files[0].filename, "/srv/c");
    assert_eq!(sftp.realpath(".").await.unwrap().files[0].filename, "/root");
    assert!(sftp.lstat("/srv/link").await.unwrap().attrs.is_symlink());
    assert!(sftp.stat("/srv/link").await.unwrap().attrs.is_regular());
    assert_eq!(code(sftp.readlink("/srv/c").await), StatusCode::BadMessage);

    sftp.mkdir("/srv/dir", permissions(0o700)).await.unwrap();
    assert_eq!(code(sftp.mkdir("/srv/dir", FileAttributes::empty()).await), StatusCode::Failure);
    assert_eq!(code(sftp.rmdir("/srv").await), StatusCode::Failure, "not empty");
    let handle = sftp.opendir("/srv").await.unwrap().handle;
    let listed = sftp.readdir(&handle).await.unwrap().files;
    let names: Vec<_> = listed.iter().map(|file| file.filename.as_str()).collect();
    assert_eq!(names, ["b", "c", "dir", "link"]);
    assert!(listed[2].longname.starts_with("drwx------"), "{}", listed[2].longname);
    assert_eq!(code(sftp.readdir(&handle).await), StatusCode::Eof);
    sftp.rmdir("/srv/dir").await.unwrap();
    assert_eq!(code(sftp.opendir("/srv/dir").await), StatusCode::NoSuchFile);
    assert_eq!(code(sftp.remove("/srv").await), StatusCode::Failure);

    let space = sftp.statvfs("/srv").await.unwrap();
    assert!(space.blocks_avail * space.fragment_size > 1 << 20 && space.flags == 0);
}

#[tokio::test]
async fn extensions_can_be_switched_off_one_by_one_and_sftp_as_a_whole() {
    let names = ["posix-rename@openssh.com", "fsync@openssh.com", "hardlink@openssh.com", "statvfs@openssh.com"];
    for hidden in names {
        let host = builder().file("/srv/a", "a", 0o644).without_extension(hidden).start().await.unwrap();
        let client = connect(&host).await.unwrap();
        let channel = client.session().await.unwrap();
        channel.request_subsystem(true, "sftp").await.unwrap();
        let sftp = RawSftpSession::new(channel.into_stream());
        let mut announced: Vec<_> = sftp.init().await.unwrap().extensions.into_keys().collect();
        announced.sort();
        let mut expected = names.to_vec();
        expected.retain(|name| *name != hidden);
        expected.sort_unstable();
        assert_eq!(announced, expected);
        let handle = sftp.open("/srv/a", OpenFlags::READ, FileAttributes::empty()).await.unwrap().handle;
        let refused = match hidden {
            "posix-rename@openssh.com" => code(posix_rename(&sftp, "/srv/a", "/srv/b").await),
            "fsync@openssh.com" => code(sftp.fsync(handle).await),
            "hardlink@openssh.com" => code(sftp.hardlink("/srv/a", "/srv/b").await),
            _ => code(sftp.statvfs("/srv").await),
        };
        assert_eq!(refused, StatusCode::OpUnsupported);
    }

    let host = builder().without_sftp().start().await.unwrap();
    let client = connect(&host).await.unwrap();
    let mut channel = client.session().await.unwrap();
    channel.request_subsystem(true, "sftp").await.unwrap();
    assert!(matches!(within(channel.wait()).await, Some(ChannelMsg::Failure)));
    let ran = client.run_with("umask 077; cat > /srv-file", b"by hand").await;
    assert_eq!(ran.status, Some(0));
    assert_eq!(host.file("/srv-file").unwrap(), b"by hand");
    assert_eq!(host.info("/srv-file").unwrap().mode, 0o600);
}
