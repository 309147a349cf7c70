//! Bundles as CRI, nerdctl and `ctr` leave them, and such that nobody should believe.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn of_a_pod_kubernetes_has_said_container_image_and_pod() {
    let host = Host::new();
    host.bundle("k8s.io", &of_pod("registry.example:5000/web:1"));

    let image = Image { name: "registry.example:5000/web:1".to_owned(), ..Image::default() };
    let expected = Told {
        name: Some("web".to_owned()),
        image: Some(image),
        pod_namespace: Some("shop".to_owned()),
        pod_name: Some("web-0".to_owned()),
        pod_uid: Some("0f2a6b2c-59a5-4d1b-9f6e-0c5d1a7b3e4f".to_owned()),
        untold: Some("containerd tells no hash of its image".to_owned()),
        ..Told::default()
    };
    assert_eq!(host.read(), Ok(Some(expected)));
}

#[test]
fn an_image_that_is_asked_for_by_contents_is_known_by_them() {
    let hash = format!("sha256:{}", "ab".repeat(32));
    let table = [
        (format!("registry.example:5000/web@{hash}"), None, true),
        (format!("registry.example:5000/web:1@{hash}"), None, true),
        (hash.clone(), Some(&hash), false),
    ];
    for (name, id, is_digest) in table {
        let host = Host::new();
        host.bundle("k8s.io", &of_pod(&name));

        let told = host.told();

        let digest = format!("registry.example:5000/web@{hash}");
        let image = told.image.expect("an image");
        assert_eq!((&image.name, image.id.as_ref()), (&name, id));
        assert_eq!(image.digests, is_digest.then_some(digest).as_slice());
        assert_eq!((image.hashes(), told.untold), (vec![&*hash], None));
    }
}

#[test]
fn what_holds_the_namespaces_of_a_pod_has_an_image_and_no_name() {
    let host = Host::new();
    host.bundle(
        "k8s.io",
        r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox",
            "io.kubernetes.cri.podsandbox.image-name":"registry.k8s.io/pause:3.10",
            "io.kubernetes.cri.sandbox-name":"web-0"}}"#,
    );

    let told = host.told();

    assert_eq!((told.name, told.pod_name.as_deref()), (None, Some("web-0")));
    assert_eq!(told.image.expect("an image").name, "registry.k8s.io/pause:3.10");
}

#[test]
fn what_is_not_told_is_said() {
    let table = [
        (
            r#"{"annotations":{"nerdctl/name":"web","nerdctl/namespace":"default"}}"#,
            "no image of it",
        ),
        (
            r#"{"annotations":{"nerdctl/name":""}}"#,
            "neither name nor image (its namespace default)",
        ),
        (r#"{"annotations":null}"#, "neither name nor image (its namespace default)"),
        (r#"{"ociVersion":"1.0.2"}"#, "neither name nor image (its namespace default)"),
        // Before containerd 1.5.
        (
            r#"{"annotations":{"io.kubernetes.cri.container-type":"container",
                "io.kubernetes.cri.container-name":"web"}}"#,
            "no image of it",
        ),
    ];
    for (config, expected) in table {
        let host = Host::new();
        host.bundle("default", config);

        let untold = host.told().untold;

        assert_eq!(untold, Some(format!("containerd tells {expected}")), "{config}");
    }
}

#[test]
fn what_docker_runs_by_containerd_is_dockers() {
    let host = Host::new();
    host.bundle("moby", "{}");

    assert_eq!(host.read(), Ok(None));
}

#[test]
fn a_container_is_looked_for_in_every_namespace_and_never_guessed() {
    let host = Host::new();
    assert_eq!(host.error(), "containerd does not know it");
    fs::create_dir_all(host.tasks().join("default/another")).unwrap();
    assert_eq!(host.error(), "containerd does not know it");
    host.bundle("k8s.io", r#"{"annotations":{"nerdctl/name":"web"}}"#);
    assert_eq!(host.told().name.as_deref(), Some("web"));

    host.bundle("default", r#"{"annotations":{"nerdctl/name":"other"}}"#);

    assert_eq!(host.error(), "containerd has it in more than one of its namespaces");
}

#[test]
fn no_id_leads_out_of_the_state() {
    let host = Host::new();
    host.bundle("default", "{}");
    fs::write(host.tasks().join("config.json"), "{}").unwrap();
    let long = "a".repeat(77);
    for id in ["", ".", "..", "../default", "/", "a/b", "a..b", "a\0b", "\u{e4}", &long] {
        let error = read(&[host.0.path().to_owned()], id).unwrap_err();

        assert_eq!(error, "containerd has no such ids", "{id:?}");
    }
    assert!(["default", "k8s.io", "a", "my-1_2.B", ID].into_iter().all(is_identifier));
}

#[test]
fn links_are_not_followed() {
    let elsewhere = Host::new();
    elsewhere.bundle("default", r#"{"annotations":{"nerdctl/name":"web"}}"#);
    let host = Host::new();
    fs::create_dir_all(host.tasks()).unwrap();
    symlink(elsewhere.tasks().join("default"), host.tasks().join("default")).unwrap();
    assert_eq!(host.error(), "containerd does not know it");
    fs::create_dir_all(host.tasks().join("k8s.io")).unwrap();
    symlink(elsewhere.directory("default"), host.directory("k8s.io")).unwrap();
    assert_eq!(host.error(), "containerd does not know it");
    let directory = host.directory("other");
    fs::create_dir_all(&directory).unwrap();

    symlink(elsewhere.directory("default").join(CONFIG), directory.join(CONFIG)).unwrap();

    assert!(host.error().starts_with("config.json: "), "{}", host.error());
}

#[test]
fn what_others_than_root_can_write_is_not_believed() {
    for directory in ["", "default"] {
        let host = Host::new();
        host.bundle("default", "{}");
        let path = host.tasks().join(directory);
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();

        assert_eq!(host.error(), "containerd: others than root can write it", "{directory}");
    }
    let host = Host::new();
    host.bundle("default", "{}");
    let path = host.directory("default").join(CONFIG);
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();

    assert_eq!(host.error(), "config.json: others than root can write it");
}

#[test]
fn a_hostile_bundle_is_none() {
    let long = format!(r#"{{"a":"{}"}}"#, "a".repeat(5 << 20));
    let deep = format!(r#"{{"annotations":{}"#, "[".repeat(100_000));
    let table = [
        ("", "not understood"),
        ("[]\n\u{1b}[2J", "not understood"),
        (r#"{"annotations":{"nerdctl/name":7}}"#, "not understood"),
        (r#"{"annotations":[1]}"#, "not understood"),
        (&deep, "not understood"),
        (&long, "too long"),
    ];
    for (config, expected) in table {
        let host = Host::new();
        host.bundle("default", config);

        assert_eq!(host.error(), format!("config.json: {expected}"));
    }
    let name = "a".repeat(5000);
    let host = Host::new();
    host.bundle("default", &format!(r#"{{"annotations":{{"nerdctl/name":"{name}"}}}}"#));
    assert_eq!(host.told().name, None);
    let host = Host::new();
    fs::create_dir_all(host.directory("default")).unwrap();
    assert!(host.error().starts_with("config.json: "), "{}", host.error());
}

/// The bundle of a container of a pod, as containerd's CRI writes it.
fn of_pod(image: &str) -> String {
    format!(
        r#"{{"ociVersion":"1.2.0","process":{{"user":{{"uid":0,"gid":0}},"args":["web"],
        "env":["A=b"],"cwd":"/"}},"root":{{"path":"rootfs"}},"hostname":"web-0","mounts":[],
        "annotations":{{"io.kubernetes.cri.container-name":"web",
        "io.kubernetes.cri.container-type":"container","io.kubernetes.cri.image-name":"{image}",
        "io.kubernetes.cri.sandbox-id":"{ID}","io.kubernetes.cri.sandbox-name":"web-0",
        "io.kubernetes.cri.sandbox-namespace":"shop",
        "io.kubernetes.cri.sandbox-uid":"0f2a6b2c-59a5-4d1b-9f6e-0c5d1a7b3e4f",
        "nerdctl/name":"not-of-kubernetes"}},
        "linux":{{"cgroupsPath":"kubepods-pod1.slice:cri-containerd:{ID}"}}}}"#
    )
}

/// The state of a containerd.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn tasks(&self) -> PathBuf {
        self.0.path().join(TASKS)
    }

    fn directory(&self, namespace: &str) -> PathBuf {
        self.tasks().join(namespace).join(ID)
    }

    fn bundle(&self, namespace: &str, config: &str) {
        fs::create_dir_all(self.directory(namespace)).unwrap();
        fs::write(self.directory(namespace).join(CONFIG), config).unwrap();
    }

    fn read(&self) -> Result<Option<Told>, String> {
        read(&[self.0.path().join("none"), self.0.path().to_owned()], ID)
    }

    fn told(&self) -> Told {
        match self.read() {
            Ok(Some(told)) => told,
            other => panic!("{other:?}"),
        }
    }

    fn error(&self) -> String {
        self.read().expect_err("nothing of it")
    }
}
