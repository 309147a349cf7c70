//! A database made up for each test; and the one of this host, where it has one.

use tempfile::TempDir;

use super::*;

const SUM: &str = "0123456789abcdef0123456789ABCDEF";

#[test]
fn a_file_belongs_to_the_package_that_lists_it_under_any_of_its_names() {
    let database = Database::new();
    database.package("bash", "amd64", "/.\n/bin\n/bin/bash\n/bin/bashbug\n", "bin/bash");
    database.package("other", "all", "/opt/bin/bash\n/bin/bash.d\n/x/usr/bin/bash", "");
    let names = ["/usr/bin/bash", "/bin/bash"];

    let owner = database.owner_of(&names).unwrap();

    let expected = Installed {
        format: PackageFormat::Dpkg,
        name: "bash".to_owned(),
        version: Some("1:2.3-4".to_owned()),
        architecture: Some("amd64".to_owned()),
        checksum: Ok(Checksum::Md5(SUM.to_ascii_lowercase())),
    };
    assert_eq!(owner, expected);
    assert_eq!(database.owner_of(&["/usr/bin/bas"]), None);
    assert_eq!(database.owner_of(&["/usr/bin/bash"]), None, "only under its other name");
    // A last line without its end.
    assert_eq!(database.owner_of(&["/x/usr/bin/bash"]).unwrap().name, "other");
}

#[test]
fn of_two_architectures_the_version_is_that_of_the_one_named() {
    let database = Database::new();
    database.status("Package: lib\nArchitecture: i386\nVersion: 1\n\n");
    database.package("lib:amd64", "amd64", "/usr/lib/lib\n", "");
    database.status("Package: lib2\nArchitecture: amd64\nVersion: 9\n");

    let owner = database.owner_of(&["/usr/lib/lib"]).unwrap();

    assert_eq!((owner.name.as_str(), owner.version.as_deref()), ("lib", Some("1:2.3-4")));
    assert_eq!(owner.architecture.as_deref(), Some("amd64"));
    assert_eq!(owner.checksum, Err("the package has no checksum of it".to_owned()));
}

#[test]
fn a_diverted_name_belongs_to_who_diverted_it_and_the_file_to_who_had_it() {
    let database = Database::new();
    database.package("perf", "amd64", "/usr/bin/perf\n", "usr/bin/perf");
    database.package("wrapper", "all", "/usr/bin/perf\n", "");
    fs::write(
        database.0.path().join("diversions"),
        "/usr/bin/perf\n/usr/bin/perf.real\nwrapper\n/usr/bin/x\n/usr/bin/x.distrib\n:\n",
    )
    .unwrap();
    database.package("x", "all", "/usr/bin/x\n", "usr/bin/x");

    let owner = |name: &str| database.owner_of(&[name]).map(|owner| owner.name);

    assert_eq!(owner("/usr/bin/perf").as_deref(), Some("wrapper"));
    assert_eq!(owner("/usr/bin/perf.real").as_deref(), Some("perf"));
    assert!(database.owner_of(&["/usr/bin/perf.real"]).unwrap().checksum.is_ok());
    assert_eq!(owner("/usr/bin/x"), None, "the administrator's own");
    assert_eq!(owner("/usr/bin/x.distrib").as_deref(), Some("x"));
}

#[test]
fn a_database_that_is_not_there_or_broken_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let dpkg = Dpkg::in_directory(directory.path());

    assert!(!dpkg.is_there());
    assert_eq!(dpkg.owner_of(&["/x".into()]).unwrap_err(), "the dpkg database: gone");
}

#[test]
fn another_package_changes_the_stamp() {
    let database = Database::new();
    let dpkg = Dpkg::in_directory(database.0.path());
    let before = dpkg.stamp();
    assert_eq!(before, dpkg.stamp());

    database.package("bash", "amd64", "/bin/bash\n", "");

    assert_ne!(before, dpkg.stamp());
}

struct Database(TempDir);

impl Database {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("info")).unwrap();
        fs::write(directory.path().join("status"), "").unwrap();
        Self(directory)
    }

    fn package(&self, package: &str, architecture: &str, list: &str, with_sum: &str) {
        let name = package.split(':').next().unwrap();
        let info = self.0.path().join("info");
        fs::write(info.join(format!("{package}.list")), list).unwrap();
        if !with_sum.is_empty() {
            let sums = format!("{SUM}  etc/{with_sum}\n{SUM}  {with_sum}\n");
            fs::write(info.join(format!("{package}.md5sums")), sums).unwrap();
        }
        self.status(&format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\n\
             Version: 1:2.3-4\nDescription: x\n Package: not this\n\n"
        ));
    }

    fn status(&self, paragraph: &str) {
        let path = self.0.path().join("status");
        let status = fs::read_to_string(&path).unwrap();
        fs::write(path, status + paragraph).unwrap();
    }

    fn owner_of(&self, names: &[&str]) -> Option<Installed> {
        let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        Dpkg::in_directory(self.0.path()).owner_of(&names).unwrap()
    }
}
