//! Runtimes that answer, that lie, and that do not answer.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

use tempfile::TempDir;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const IMAGE_ID: &str = "sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const DIGEST: &str = "registry.example/web@sha256:\
     00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn docker_tells_the_name_of_a_container_and_where_its_image_is_from() {
    let (directory, server) = docker(vec![
        ok(&format!(
            r#"{{"Id":"{ID}","Name":"/web","Image":"{IMAGE_ID}","Config":{{"Image":"web:1","Env":["A=b"]}}}}"#
        )),
        ok(&format!(r#"{{"Id":"{IMAGE_ID}","RepoTags":["web:1"],"RepoDigests":["{DIGEST}"]}}"#)),
    ]);

    let described = describe(&directory, "docker").unwrap();

    let image = Image {
        name: "web:1".to_owned(),
        id: Some(IMAGE_ID.to_owned()),
        digests: vec![DIGEST.to_owned()],
    };
    assert_eq!((described.name.as_deref(), described.image), (Some("web"), Some(image)));
    let asked = [format!("/containers/{ID}/json"), format!("/images/{IMAGE_ID}/json")];
    assert_eq!(server.join().unwrap(), asked);
}

#[test]
fn an_image_that_is_gone_leaves_its_name_and_id() {
    let container =
        format!(r#"{{"Name":"/web","Image":"{IMAGE_ID}","Config":{{"Image":"web:1"}}}}"#);
    let missing = b"HTTP/1.0 404 Not Found\r\n\r\n{\"message\":\"no such image\"}".to_vec();
    let (directory, _server) = docker(vec![ok(&container), missing]);

    let image = describe(&directory, "docker").unwrap().image.unwrap();

    assert_eq!(image.hashes(), [IMAGE_ID]);
}

#[test]
fn a_hostile_answer_is_no_answer() {
    let long = format!(r#"{{"Name":"{}"}}"#, "a".repeat(2 << 20));
    let deep = format!(r#"{{"Name":{}"#, "[".repeat(100_000));
    let table: [(Vec<u8>, &str); 7] = [
        (Vec::new(), "no answer in HTTP"),
        (b"\xff\xfe\r\n\r\n".to_vec(), "refuses to answer"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n".to_vec(), "does not know it"),
        (b"HTTP/1.1 500 Oops\r\n\r\n{}".to_vec(), "refuses to answer"),
        (ok("{\"Name\":\"\\u001b[2J\"}"), "not understood"),
        (ok(&deep), "not understood"),
        (ok(&long), "too long"),
    ];
    for (answer, expected) in table {
        let (directory, _server) = docker(vec![answer]);

        let error = describe(&directory, "docker").unwrap_err();

        assert!(error.contains(expected) && error.len() < 100, "{error}");
    }
}

#[test]
fn what_is_too_long_for_a_name_or_no_hash_is_left_out() {
    let name = "a".repeat(MAX_NAME + 1);
    let container =
        format!(r#"{{"Name":"/{name}","Image":"sha256:../..","Config":{{"Image":"web"}}}}"#);
    let (directory, server) = docker(vec![ok(&container)]);

    let described = describe(&directory, "docker").unwrap();

    let image = Image { name: "web".to_owned(), ..Image::default() };
    assert_eq!((described.name, described.image), (None, Some(image)));
    assert_eq!(server.join().unwrap().len(), 1, "nobody asks for an image by such an id");
}

#[test]
fn a_runtime_that_never_answers_is_given_up_and_not_asked_again_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
    let patience = Duration::from_millis(50);
    let runtimes = Runtimes { patience, ..at(&directory) };

    let began = since_boot();
    let first = runtimes.describe(&container("docker")).unwrap_err();
    let second = runtimes.describe(&container("docker")).unwrap_err();

    let took = since_boot().saturating_sub(began);
    assert!(took >= patience && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(first, second);
}

#[test]
fn many_containers_at_once_do_not_keep_the_thread_from_its_work() {
    let directory = tempfile::tempdir().unwrap();
    let runtimes = at(&directory);
    runtimes.asked.lock().unwrap().rested_at =
        since_boot().saturating_add(2 * BURST.saturating_mul(REST));

    let error = runtimes.describe(&container("docker")).unwrap_err();

    assert_eq!(error, "too many containers at once");
}

#[test]
fn podman_and_cri_o_keep_name_and_image_in_files() {
    let directory = tempfile::tempdir().unwrap();
    let (image, digest) = ("ab".repeat(32), "cd".repeat(32));
    let entry = format!(
        r#"[{{"id":"{ID}","names":["web"],"image":"{image}","layer":"1","metadata":
        "{{\"image-name\":\"registry.example:5000/web:1\",\"image-id\":\"{image}\"}}"}}]"#
    );
    let images = format!(
        r#"[{{"id":"{image}","digest":"sha256:{digest}","names":["registry.example:5000/web:1",
        "registry.example:5000/web:2"]}}]"#
    );
    for (name, text) in [("containers", "[]"), ("volatile-containers", entry.as_str())] {
        write(&directory, &format!("overlay-containers/{name}.json"), text);
    }
    write(&directory, "overlay-images/images.json", &images);

    for runtime in ["podman", "cri-o"] {
        let described = describe(&directory, runtime).unwrap();

        let image = Image {
            name: "registry.example:5000/web:1".to_owned(),
            id: Some(format!("sha256:{image}")),
            digests: vec![format!("registry.example:5000/web@sha256:{digest}")],
        };
        assert_eq!((described.name.as_deref(), described.image), (Some("web"), Some(image)));
    }
}

#[test]
fn a_storage_that_others_can_write_or_that_makes_no_sense_is_not_believed() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    assert_eq!(describe(&directory, "podman").unwrap_err(), "its storage does not know it");
    let file = "overlay-containers/containers.json";
    write(&directory, file, "[{\"id\":7}]");
    let error = describe(&directory, "podman").unwrap_err();
    assert_eq!(error, "containers.json: not understood");

    let path = directory.path().join(file);
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();

    let error = describe(&directory, "podman").unwrap_err();
    assert_eq!(error, "containers.json: others than root can write it");
}

#[test]
fn who_is_not_asked_is_said() {
    let directory = tempfile::tempdir().unwrap();

    let error = describe(&directory, "rkt").unwrap_err();

    assert_eq!(error, "rkt is not asked for name and image");
    assert!(describe(&directory, "lxc").unwrap().image.is_none());
}

#[test]
fn where_the_path_does_not_say_whose_a_container_is_containerd_may() {
    let unknown = || Container { runtime: None, ..container("") };
    let directory = tempfile::tempdir().unwrap();
    let error = at(&directory).describe(&unknown()).unwrap_err();
    assert_eq!(error, "its runtime is not known, and containerd does not know it");
    bundle(&directory, "default", r#"{"annotations":{"nerdctl/name":"web"}}"#);

    let (described, untold) = at(&directory).describe(&unknown()).unwrap();

    assert_eq!(
        (described.runtime.as_deref(), described.name.as_deref()),
        (Some("containerd"), Some("web"))
    );
    assert_eq!(untold.as_deref(), Some("containerd tells no image of it"));
}

#[test]
fn of_its_own_containers_docker_is_asked_although_containerd_runs_them() {
    let (directory, _server) =
        docker(vec![ok(r#"{"Name":"/web","Image":"","Config":{"Image":"web:1"}}"#)]);
    bundle(&directory, "moby", r#"{"annotations":{"nerdctl/name":"not-web"}}"#);

    let (described, _) =
        at(&directory).describe(&Container { runtime: None, ..container("") }).unwrap();

    assert_eq!(
        (described.runtime.as_deref(), described.name.as_deref()),
        (Some("docker"), Some("web"))
    );
}

#[test]
fn a_pod_is_known_by_name_and_keeps_the_uid_that_its_cgroup_has() {
    let directory = tempfile::tempdir().unwrap();
    let annotations = r#"{"annotations":{"io.kubernetes.cri.container-type":"container",
        "io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.sandbox-namespace":"shop",
        "io.kubernetes.cri.sandbox-uid":"by-annotation"}}"#;
    bundle(&directory, "k8s.io", annotations);
    for (by_path, expected) in [(Some("by-path"), "by-path"), (None, "by-annotation")] {
        let pod_uid = by_path.map(str::to_owned);
        let container = Container { pod_uid, ..container("containerd") };

        let (described, _) = at(&directory).describe(&container).unwrap();

        assert_eq!(described.pod_uid.as_deref(), Some(expected));
        assert_eq!(described.pod_namespace.as_deref(), Some("shop"));
        assert_eq!(described.pod_name.as_deref(), Some("web-0"));
    }
}

/// A bundle of the container in a namespace of containerd.
fn bundle(directory: &TempDir, namespace: &str, config: &str) {
    let path = format!("containerd/io.containerd.runtime.v2.task/{namespace}/{ID}/config.json");
    write(directory, &path, config);
}

/// A Docker that gives these answers, one after the other, and in the end says what it was asked.
fn docker(answers: Vec<Vec<u8>>) -> (TempDir, JoinHandle<Vec<String>>) {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
    let server = std::thread::spawn(move || {
        let mut targets = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = request.next().unwrap().unwrap();
            // To its end: what is left unread would make the end of the answer a reset.
            while request.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            targets.extend(first.split(' ').nth(1).map(str::to_owned));
            // Whoever asked may have heard enough.
            drop(stream.write_all(&answer));
        }
        targets
    });
    (directory, server)
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}").into_bytes()
}

fn describe(directory: &TempDir, runtime: &'static str) -> Result<Container, String> {
    at(directory).describe(&container(runtime)).map(|(container, _)| container)
}

fn at(directory: &TempDir) -> Runtimes {
    Runtimes {
        docker: directory.path().join("docker.sock"),
        storage: directory.path().to_owned(),
        containerd: vec![directory.path().join("none"), directory.path().join("containerd")],
        patience: Duration::from_secs(20),
        ..Runtimes::of_host()
    }
}

fn container(runtime: &'static str) -> Container {
    Container { id: ID.to_owned(), runtime: Some(runtime.into()), ..Container::default() }
}

fn write(directory: &TempDir, file: &str, text: &str) {
    let path = directory.path().join(file);
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
    fs::write(path, text).unwrap();
}
