use super::*;

fn code<T: std::fmt::Debug>(result: WindowsResult<T>) -> u32 {
    result.unwrap_err().code
}

#[test]
fn files_are_found_in_any_spelling() {
    let mut files = FileSystem::new();
    files.put("C:\\Web\\Cert.pfx", "old").unwrap();
    assert_eq!(files.read("c:/web/CERT.PFX").unwrap(), b"old");
    assert_eq!(files.info("c:\\web\\cert.pfx").unwrap().path, "C:\\Web\\Cert.pfx");
    assert_eq!(code(files.read("C:\\Web\\none")), 0x8007_0002);
    assert_eq!(code(files.read("C:\\none\\none")), 0x8007_0003);
    assert_eq!(code(files.write("C:\\none\\none", b"x")), 0x8007_0003);
    assert_eq!(code(files.read("Q:\\none")), 0x8007_0003);
    assert_eq!(files.list("C:\\Web").unwrap().len(), 1);
}

#[test]
fn replacing_is_one_step_that_keeps_the_access_list() {
    let mut files = FileSystem::new();
    files.put("C:\\w\\a", "old").unwrap();
    files.put("C:\\w\\a.new", "new").unwrap();
    files.set_sddl("C:\\w\\a", "O:BAD:P(A;;FA;;;BA)").unwrap();
    assert_eq!(code(files.rename("C:\\w\\a.new", "C:\\w\\a")), 0x8007_00B7);
    files.replace("C:\\w\\a.new", "C:\\w\\a", Some("C:\\w\\a.bak")).unwrap();
    assert_eq!(files.read("C:\\w\\a").unwrap(), b"new");
    assert_eq!(files.read("C:\\w\\a.bak").unwrap(), b"old");
    assert_eq!(files.info("C:\\w\\a").unwrap().sddl, "O:BAD:P(A;;FA;;;BA)");
    assert!(!files.exists("C:\\w\\a.new"));
    assert_eq!(code(files.replace("C:\\w\\a.new", "C:\\w\\a", None)), 0x8007_0002);
    files.add_volume("D:");
    files.put("D:\\a.new", "new").unwrap();
    assert_eq!(code(files.replace("D:\\a.new", "C:\\w\\a", None)), 0x8007_0011);
}

#[test]
fn what_is_in_the_way_is_in_the_way() {
    let mut files = FileSystem::new();
    files.put("C:\\w\\a", "old").unwrap();
    files.set_locked("C:\\w\\a", true);
    assert_eq!(code(files.read("C:\\w\\a")), 0x8007_0020);
    assert_eq!(code(files.write("C:\\w\\a", b"x")), 0x8007_0020);
    files.set_locked("C:\\w\\a", false);
    files.set_read_only("C:\\w\\a", true).unwrap();
    assert_eq!(code(files.write("C:\\w\\a", b"x")), 0x8007_0005);
    assert_eq!(code(files.delete("C:\\w\\a")), 0x8007_0005);
    files.set_read_only("C:\\w\\a", false).unwrap();
    files.set_room("C:", 2);
    assert_eq!(code(files.write("C:\\w\\b", b"four")), 0x8007_0070);
    files.write("C:\\w\\a", b"five!").unwrap();
    files.set_writable("C:", false);
    assert_eq!(code(files.delete("C:\\w\\a")), 0x8007_0005);
    files.set_writable("C:", true);
    files.fail("C:\\w", 1, 1, WindowsError::sharing_violation("C:\\w"));
    files.append("C:\\w\\a", b"").unwrap();
    assert_eq!(code(files.append("C:\\w\\a", b"")), 0x8007_0020);
    assert_eq!(files.read("C:\\w\\a").unwrap(), b"five!");
}

#[test]
fn shares_may_be_out_of_reach() {
    let mut files = FileSystem::new();
    assert_eq!(code(files.write("\\\\srv\\ccs\\a.pfx", b"x")), 0x8007_0035);
    files.add_volume("\\\\srv\\ccs");
    files.write("\\\\SRV\\ccs\\a.pfx", b"x").unwrap();
    files.set_reachable("\\\\srv\\ccs", false);
    assert_eq!(code(files.read("\\\\srv\\ccs\\a.pfx")), 0x8007_0035);
}

#[test]
fn directories_go_when_they_are_empty() {
    let mut files = FileSystem::new();
    files.create_directories("C:\\a\\b\\c").unwrap();
    files.write("C:\\a\\b\\c\\f", b"x").unwrap();
    assert_eq!(code(files.create_directories("C:\\a\\b\\c\\f\\g")), 0x8007_00B7);
    assert_eq!(code(files.remove_directory("C:\\a\\b")), 0x8007_0091);
    files.rename("C:\\a\\b", "C:\\a\\z").unwrap();
    assert_eq!(files.info("C:\\a\\z\\c\\f").unwrap().path, "C:\\a\\z\\c\\f");
    files.delete("C:\\a\\z\\c\\f").unwrap();
    files.remove_directory("C:\\a\\z\\c").unwrap();
    assert!(!files.exists("C:\\a\\z\\c") && files.exists("C:\\a\\z"));
}
