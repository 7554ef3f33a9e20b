//! The scripts as they are, and as the simulated host knows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use certlib_testkit::winrm::{CERTLIB_SCRIPTS, Marker};

/// A changed script is refused by the simulated host, so this fails first, and says what to do.
#[test]
fn the_test_kit_knows_every_script_to_the_letter() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    for folder in ["winrm/scripts", "iis/scripts"] {
        for file in fs::read_dir(sources.join(folder)).unwrap() {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert_eq!(Marker::of(&text).unwrap().name, name, "{} names itself differently", path.display());
            found.insert(name, text);
        }
    }
    for known in CERTLIB_SCRIPTS {
        let text = found.remove(known.name).unwrap_or_else(|| panic!("{} is gone; so should be its twin", known.name));
        assert!(
            known.is(&text),
            "{} has changed: see that its twin in certlib-testkit/src/winrm/certlib does the same, then put its new \
             digest into CERTLIB_SCRIPTS there",
            known.name
        );
    }
    assert!(found.is_empty(), "without a twin in certlib-testkit/src/winrm/certlib: {:?}", found.keys());
}
