//! A database with the schema of rpm 4.18, and the header that it wrote for a package of three files.

use tempfile::TempDir;

use super::*;

/// cardbridge-2:1.0-3.x86_64 with `/etc/cardbridge.conf`, `/usr/sbin/cardbridged`, and
/// `/usr/bin/cardbridged`, a symbolic link.
const HEADER: &[u8] = include_bytes!("cardbridge.header");

#[test]
fn a_file_belongs_to_the_package_that_has_it_under_any_of_its_names() {
    let database = database();

    let owner = owner_of(&database, &["/usr/local/bin/x", "/usr/sbin/cardbridged"]).unwrap();

    let sum = "c79bf44242829108e323378531f4ac839513ca1fba45efd6583643526e1e9fd2";
    let expected = Installed {
        format: PackageFormat::Rpm,
        name: "cardbridge".to_owned(),
        version: Some("2:1.0-3".to_owned()),
        architecture: Some("x86_64".to_owned()),
        checksum: Ok(Checksum::Sha256(sum.to_owned())),
    };
    assert_eq!(owner, Some(expected));
    for other in ["/opt/cardbridged", "/usr/sbin/cardbridge", "/usr/sbin/cardbridged/x", "/"] {
        assert_eq!(owner_of(&database, &[other]), Ok(None), "{other}");
    }
}

#[test]
fn a_file_without_a_checksum_cannot_be_verified() {
    let link = owner_of(&database(), &["/usr/bin/cardbridged"]).unwrap().unwrap();

    assert_eq!(link.checksum, Err("the package has no checksum of it".to_owned()));
}

#[test]
fn a_database_in_change_or_of_an_older_format_or_broken_is_told() {
    let changing = database();
    fs::write(changing.path().join(JOURNAL), "x").unwrap();
    let older = tempfile::tempdir().unwrap();
    fs::write(older.path().join("Packages"), "").unwrap();
    let broken = tempfile::tempdir().unwrap();
    fs::write(broken.path().join(SQLITE), "no database at all, however long this text gets")
        .unwrap();
    let nothing = tempfile::tempdir().unwrap();

    for (directory, why) in [
        (&changing, "the rpm database is being changed"),
        (&older, "the rpm database is Packages, a format portwatch does not read"),
        (&broken, "the rpm database: file is not a database"),
    ] {
        assert!(Rpm::in_directory(directory.path()).is_there());
        assert_eq!(owner_of(directory, &["/x"]).unwrap_err(), why);
    }
    assert!(!Rpm::in_directory(nothing.path()).is_there());
}

#[test]
fn a_header_cut_anywhere_or_garbled_is_no_panic() {
    let names = ["/usr/sbin/cardbridged".into()];
    for end in 0..HEADER.len() {
        let cut = Header::parse(&HEADER[..end]);
        drop(cut.and_then(|header| owner(&header, &names)));
    }
    let mut garbled = HEADER.to_vec();
    for at in 0..garbled.len() {
        garbled[at] ^= 0xff;
        let header = Header::parse(&garbled);
        drop(header.and_then(|header| owner(&header, &names)));
        garbled[at] ^= 0xff;
    }
}

fn database() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let database = Connection::open(directory.path().join(SQLITE)).unwrap();
    database
        .execute_batch(
            "CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT,blob BLOB NOT NULL);
             CREATE TABLE 'Basenames' (key 'TEXT' NOT NULL, hnum INTEGER NOT NULL,
                 idx INTEGER NOT NULL, FOREIGN KEY (hnum) REFERENCES 'Packages'(hnum));",
        )
        .unwrap();
    database.execute("INSERT INTO Packages VALUES (1, ?1)", [HEADER]).unwrap();
    let names = "('cardbridge.conf', 1, 0), ('cardbridged', 1, 1), ('cardbridged', 1, 2)";
    database.execute(&format!("INSERT INTO Basenames VALUES {names}"), []).unwrap();
    directory
}

fn owner_of(directory: &TempDir, names: &[&str]) -> Result<Option<Installed>, String> {
    let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    Rpm::in_directory(directory.path()).owner_of(&names)
}
