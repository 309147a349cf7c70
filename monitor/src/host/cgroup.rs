//! What a cgroup path says: the systemd unit and slice, the container, the pod.
//!
//! Below a unit that delegates its cgroup (a container, a user's session) anybody may name
//! directories as they like. So the outermost name counts, as systemd itself has it: what runs
//! inside a container or service cannot pass for another one.

mod hierarchy;

use std::borrow::Cow;

pub use hierarchy::Hierarchy;

use crate::escape;
use crate::owner::Container;

/// Where a process stands in the cgroup hierarchy.
///
/// Everything here is foreign text: escape before showing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Placement {
    /// Path in the cgroup v2 hierarchy, or of the v1 `systemd` hierarchy where that says more.
    pub path: String,
    /// The systemd unit. Of a user's service manager the unit of that manager: `app.service`, not
    /// `user@1000.service`; [`Self::path`] tells them from units of the system.
    pub unit: Option<String>,
    /// The last of the slices the path begins with.
    pub slice: Option<String>,
    /// The container.
    pub container: Option<Container>,
}

impl Placement {
    /// Of the contents of `/proc/PID/cgroup`; `None` if no line of it is of use.
    pub fn parse(file: &[u8]) -> Option<Self> {
        let lines: Vec<_> = file.split(|&byte| byte == b'\n').filter_map(Line::parse).collect();
        let unified = lines.iter().find(|line| line.hierarchy == b"0");
        let systemd = lines.iter().find(|line| line.controllers == b"name=systemd");
        let chosen = match (unified, systemd) {
            // Hybrid: the unified hierarchy is mounted, but nobody places processes in it.
            (Some(Line { path: b"/", .. }), Some(systemd)) => systemd,
            (Some(line), _) | (None, Some(line)) => line,
            (None, None) => lines.first()?,
        };
        let path = escape::text_from_bytes(chosen.path).into_owned();
        // Docker without systemd on a v1 host places containers by controllers only.
        let container = container(&path).or_else(|| {
            lines.iter().find_map(|line| container(&escape::text_from_bytes(line.path)))
        });
        Some(Self { unit: unit(&path), slice: slice(&path), container, path })
    }

    /// Of a path in the cgroup v2 hierarchy; `None` for the root, which tells nothing of who is there.
    pub fn of_path(path: &[u8]) -> Option<Self> {
        let path = escape::text_from_bytes(path).into_owned();
        let (unit, slice, container) = (unit(&path), slice(&path), container(&path));
        (path != "/").then_some(Self { path, unit, slice, container })
    }
}

/// The systemd unit of a cgroup path.
///
/// As `cg_path_get_unit` and `cg_path_get_user_unit` of systemd: slices are passed over, then the
/// first directory is the unit or there is none; below `user@UID.service` the same once more.
pub fn unit(path: &str) -> Option<String> {
    let mut directories = below_slices(path);
    let unit = directories.next().filter(|name| is_unit(name))?;
    if unit.starts_with("user@") && unit.ends_with(".service") {
        let mut directories = directories.skip_while(|name| is_slice(name));
        if let Some(of_user) = directories.next().filter(|name| is_unit(name)) {
            return Some(original(of_user).to_owned());
        }
    }
    Some(original(unit).to_owned())
}

/// Whether the service manager of a user other than root made it: then that user may have called it
/// what they like, also like a container of root's.
pub fn is_users_own(path: &str) -> bool {
    let name = below_slices(path).next().and_then(|name| name.strip_prefix("user@"));
    name.and_then(|name| name.strip_suffix(".service")).is_some_and(|user| user != "0")
}

/// The slice of a cgroup path, as `cg_path_get_slice` of systemd; the root slice is none.
pub fn slice(path: &str) -> Option<String> {
    let names = path.split('/').filter(|name| !name.is_empty());
    names.take_while(|name| is_slice(name)).last().map(|name| original(name).to_owned())
}

/// The container of a cgroup path.
pub fn container(path: &str) -> Option<Container> {
    let mut parent = "";
    for name in path.split('/') {
        if let Some((id, runtime)) = contained(parent, name) {
            let (id, runtime) = (id.into_owned(), runtime.map(Cow::Borrowed));
            let pod_uid = pod_uid(path);
            return Some(Container { id, runtime, pod_uid, ..Container::default() });
        }
        parent = name;
    }
    None
}

/// The directory in which that of the container lies: who can make directories there can give one that name.
pub fn around_container(path: &str) -> Option<&str> {
    let (mut parent, mut length) = ("", 0);
    for name in path.split('/') {
        if contained(parent, name).is_some() {
            return path.get(..length);
        }
        parent = name;
        length += name.len() + 1;
    }
    None
}

/// The UID of the Kubernetes pod: `/kubepods/burstable/podUID/…` with the cgroupfs driver,
/// `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/…` with systemd's, where
/// `_` stands for `-`.
fn pod_uid(path: &str) -> Option<String> {
    let mut of_kubelet = false;
    for name in path.split('/') {
        of_kubelet |= name.contains("kubepods");
        let stem = name.split_once(".slice").map_or(name, |(stem, _)| stem);
        let uid = match stem.strip_prefix("pod") {
            None => stem.rsplit_once("-pod").map(|(_, uid)| uid),
            uid => uid,
        };
        if let Some(uid) = uid.filter(|_| of_kubelet) {
            let uid = uid.replace('_', "-");
            // A UUID; of a static pod a hash of 32 digits.
            let is_uid = [32, 36].contains(&uid.len())
                && uid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
            return is_uid.then_some(uid);
        }
    }
    None
}

struct Line<'a> {
    hierarchy: &'a [u8],
    controllers: &'a [u8],
    path: &'a [u8],
}

impl<'a> Line<'a> {
    /// `HIERARCHY:CONTROLLERS:PATH`; the path may have colons of its own.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (hierarchy, controllers) = (fields.next()?, fields.next()?);
        let path = fields.next().filter(|path| path.starts_with(b"/"))?;
        Some(Self { hierarchy, controllers, path })
    }
}

fn below_slices(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty()).skip_while(|name| is_slice(name))
}

fn is_slice(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, suffix)| suffix == "slice")
}

/// Unit types that have a cgroup of their own, slices aside.
fn is_unit(name: &str) -> bool {
    let Some((stem, suffix)) = name.rsplit_once('.') else { return false };
    !stem.is_empty() && ["service", "scope", "socket", "mount", "swap"].contains(&suffix)
}

/// The container that a directory is, given the one above it: its id, and who made it.
fn contained<'a>(parent: &str, name: &'a str) -> Option<(Cow<'a, str>, Option<&'static str>)> {
    let scope = name.strip_suffix(".scope");
    let stem = scope.unwrap_or(name);
    // `docker-ID.scope`; with cgroupfs drivers `/docker/ID`, `/kubepods/…/ID`, `libpod-ID`.
    let prefixed = RUNTIMES
        .iter()
        .find_map(|(prefix, runtime)| Some((stem.strip_prefix(prefix)?, *runtime)))
        .filter(|(id, _)| is_hex_id(id));
    if let Some((id, runtime)) = prefixed {
        return Some((Cow::Borrowed(id), Some(runtime)));
    }
    // What lies there with a bare id is a pod of podman's, its containers are below.
    if is_hex_id(stem) && parent != "libpod_parent" {
        let runtime = PARENTS.iter().find(|(name, _)| *name == parent);
        return Some((Cow::Borrowed(stem), runtime.map(|(_, runtime)| *runtime)));
    }
    // containerd under a unit of its own: `kubepods-…-podUID.slice:cri-containerd:ID`.
    let mut fields = name.rsplitn(3, ':');
    if let (Some(id), Some(prefix)) = (fields.next().filter(|id| is_hex_id(id)), fields.next()) {
        let known = |(known, _): &&(&str, _)| known.strip_suffix('-') == Some(prefix);
        let runtime = RUNTIMES.iter().find(known);
        return Some((Cow::Borrowed(id), runtime.map(|(_, runtime)| *runtime)));
    }
    if parent == "lxc" || parent == "lxc.payload" {
        return Some((Cow::Borrowed(name), Some("lxc")));
    }
    if let Some(name) = name.strip_prefix("lxc.payload.") {
        return Some((Cow::Borrowed(name), Some("lxc")));
    }
    let service = name.strip_suffix(".service");
    let machine = scope
        .and_then(|scope| scope.strip_prefix("machine-"))
        .or_else(|| service.and_then(|service| service.strip_prefix("systemd-nspawn@")))?;
    // Virtual machines of libvirt are machines too: `machine-qemu\x2d1\x2dNAME.scope`.
    (!machine.starts_with("qemu")).then(|| (unescape(machine), Some("systemd-nspawn")))
}

fn is_hex_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What systemd calls the unit or slice of a directory: without the `_` that it puts before names that
/// would clash with the kernel's files. A `\x2d` belongs to the name.
fn original(name: &str) -> &str {
    name.strip_prefix('_').unwrap_or(name)
}

/// Undoes `systemd-escape`, by which a unit has the name of something else as a part: `\xNN` is a byte.
fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains('\\') {
        return Cow::Borrowed(name);
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'\\').then(|| after.strip_prefix(b"x")).flatten();
        let digits = escaped.and_then(|escaped| escaped.split_at_checked(2));
        let decoded = digits.and_then(|(digits, after)| Some((hex(digits)?, after)));
        let (byte, after) = decoded.unwrap_or((byte, after));
        bytes.push(byte);
        rest = after;
    }
    Cow::Owned(escape::text_from_bytes(&bytes).into_owned())
}

fn hex(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// What container runtimes put before the id. Not those of their monitors (`libpod-conmon-`).
const RUNTIMES: [(&str, &str); 7] = [
    ("docker-", "docker"),
    // `podman run --cgroups=split`, as systemd units of podman's do.
    ("libpod-payload-", "podman"),
    ("libpod-", "podman"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("containerd-", "containerd"),
    ("crio-", "cri-o"),
];
/// Directories in which a bare id is a container of theirs.
const PARENTS: [(&str, &str); 3] =
    [("docker", "docker"), ("k8s.io", "containerd"), ("libpod", "podman")];

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_unit_is_the_outermost_one() {
        let cases = [
            ("/", None),
            ("/init.scope", Some("init.scope")),
            ("/system.slice/ssh.service", Some("ssh.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            ("/system.slice/card\\x2dbridge.service", Some("card\\x2dbridge.service")),
            ("/system.slice/_cgroup.service", Some("cgroup.service")),
            ("/system.slice/foo.service/bar.service", Some("foo.service")),
            ("/system.slice/docker-1.scope/system.slice/nginx.service", Some("docker-1.scope")),
            ("/system.slice", None),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service",
                Some("foo.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service/x.service",
                Some("foo.service"),
            ),
            ("/user.slice/user-1000.slice/user@1000.service/x", Some("user@1000.service")),
            ("/user.slice/user-1000.slice/user@1000.service", Some("user@1000.service")),
            ("/docker/0123", None),
            ("/lxc.payload.web/system.slice/nginx.service", None),
            ("/../../system.slice/ssh.service", None),
            ("/.service", None),
        ];
        for (path, expected) in cases {
            assert_eq!(unit(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn what_a_user_may_name_is_the_users_own() {
        let table = [
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope", true),
            ("/user.slice/user-1000.slice/user@1000.service/ID", true),
            ("/user.slice/user-0.slice/user@0.service/app.slice/docker-ID.scope", false),
            ("/user.slice/user-1000.slice/session-3.scope", false),
            ("/system.slice/docker-ID.scope/user@1000.service", false),
            ("/kubepods.slice/cri-containerd-ID.scope", false),
            ("/", false),
        ];
        for (path, expected) in table {
            assert_eq!(is_users_own(path), expected, "{path}");
        }
    }

    #[test]
    fn a_container_lies_in_the_directory_around_it() {
        let table = [
            (format!("/system.slice/docker-{ID}.scope"), Some("/system.slice/")),
            (format!("/docker/{ID}/system.slice/nginx.service"), Some("/docker/")),
            (format!("/{ID}"), Some("/")),
            ("/system.slice/ssh.service".to_owned(), None),
        ];
        for (path, expected) in table {
            assert_eq!(around_container(&path), expected, "{path}");
        }
    }

    #[test]
    fn the_slice_is_the_last_of_those_the_path_begins_with() {
        let table = [
            ("/", None),
            ("/init.scope", None),
            ("/system.slice/ssh.service", Some("system.slice")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("system-getty.slice")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service",
                Some("user-1000.slice"),
            ),
            ("/a.slice/a-b\\x2dc.slice/d.service", Some("a-b\\x2dc.slice")),
            ("/system.slice/_io.slice/x.scope", Some("io.slice")),
            ("/docker/0123", None),
        ];
        for (path, expected) in table {
            assert_eq!(slice(path).as_deref(), expected, "{path}");
        }
    }

    /// Paths as the runtimes' own documents, sources and bug reports show them.
    #[test]
    fn the_container_is_the_outermost_one() {
        let table = [
            // Docker: systemd driver, cgroupfs driver, in a container, rootless.
            ("/system.slice/docker-ID.scope", Some((ID, Some("docker")))),
            ("/docker/ID", Some((ID, Some("docker")))),
            ("/docker/ID/docker/ffff", Some((ID, Some("docker")))),
            ("/docker/ID/system.slice/nginx.service", Some((ID, Some("docker")))),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
                Some((ID, Some("docker"))),
            ),
            ("/ecs/a5ea39b1/ID", Some((ID, None))),
            // podman: systemd driver, cgroupfs driver, pods of both, rootless, split.
            ("/machine.slice/libpod-ID.scope/container", Some((ID, Some("podman")))),
            ("/libpod_parent/libpod-ID", Some((ID, Some("podman")))),
            ("/libpod_parent/POD/libpod-ID", Some((ID, Some("podman")))),
            (
                "/machine.slice/machine-libpod_pod_POD.slice/libpod-ID.scope/container",
                Some((ID, Some("podman"))),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
                Some((ID, Some("podman"))),
            ),
            ("/system.slice/web.service/libpod-payload-ID", Some((ID, Some("podman")))),
            ("/machine.slice/libpod-conmon-ID.scope", None),
            ("/system.slice/web.service/runtime", None),
            // CRI-O and containerd under the kubelet, and by themselves.
            ("/kubepods/besteffort/pod7/crio-ID", Some((ID, Some("cri-o")))),
            ("/kubepods.slice/kubepods-burstable.slice/crio-ID.scope", Some((ID, Some("cri-o")))),
            ("/system.slice/crio-conmon-ID.scope", None),
            (
                "/kubepods.slice/kubepods-pod7.slice/cri-containerd-ID.scope",
                Some((ID, Some("containerd"))),
            ),
            ("/kubepods/burstable/pod7/ID", Some((ID, None))),
            (
                "/system.slice/containerd.service/kubepods-pod7.slice:cri-containerd:ID",
                Some((ID, Some("containerd"))),
            ),
            ("/system.slice:docker:ID", Some((ID, Some("docker")))),
            ("/k8s.io/ID", Some((ID, Some("containerd")))),
            ("/system.slice/nerdctl-ID.scope", Some((ID, Some("containerd")))),
            // LXC, LXD and Incus, Proxmox, systemd-nspawn.
            ("/lxc/web/init.scope", Some(("web", Some("lxc")))),
            ("/lxc/101/ns/system.slice/ssh.service", Some(("101", Some("lxc")))),
            ("/lxc.payload.web/system.slice/nginx.service", Some(("web", Some("lxc")))),
            ("/lxc.payload/web", Some(("web", Some("lxc")))),
            ("/lxc.monitor.web", None),
            (
                "/machine.slice/machine-my\\x2dbox.scope/payload",
                Some(("my-box", Some("systemd-nspawn"))),
            ),
            (
                "/machine.slice/systemd-nspawn@box.service/payload",
                Some(("box", Some("systemd-nspawn"))),
            ),
            ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope", None),
            // None.
            ("/system.slice/ssh.service", None),
            ("/system.slice/docker.service", None),
            ("/docker/0123", None),
            ("/docker/buildkit", None),
            ("/", None),
        ];
        for (path, expected) in table {
            let full = path.replace("ID", ID).replace("POD", &"f".repeat(64));
            let found = container(&full);
            let found = found.as_ref().map(|it| (it.id.as_str(), it.runtime.as_deref()));
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn the_pod_is_found_with_either_driver_of_the_kubelet() {
        let uid = "1a2b3c4d-0000-4aaa-8bbb-123456789abc";
        let table = [
            ("/kubepods/podUID/ID", Some(uid)),
            ("/kubepods/besteffort/podUID/ID", Some(uid)),
            ("/kubepods/burstable/podUID/crio-ID", Some(uid)),
            ("/kubepods.slice/kubepods-podU_ID.slice/docker-ID.scope", Some(uid)),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_ID.slice/cri-containerd-ID.scope",
                Some(uid),
            ),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podU_ID.slice/cri-containerd-ID.scope",
                Some(uid),
            ),
            (
                "/system.slice/containerd.service/kubepods-burstable-podU_ID.slice:cri-containerd:ID",
                Some(uid),
            ),
            ("/kubepods/burstable/podHASH/ID", Some("0123456789abcdef0123456789abcdef")),
            ("/kubepods/burstable/pod-no-uid/ID", None),
            ("/system.slice/my-podUID.slice/docker-ID.scope", None),
        ];
        for (path, expected) in table {
            let path = path
                .replace("U_ID", &uid.replace('-', "_"))
                .replace("UID", uid)
                .replace("HASH", "0123456789abcdef0123456789abcdef")
                .replace("ID", ID);
            let found = container(&path).unwrap();
            assert_eq!((found.id.as_str(), found.pod_uid.as_deref()), (ID, expected), "{path}");
        }
    }

    #[test]
    fn the_unified_hierarchy_is_preferred_where_it_says_something() {
        let cases: [(&[u8], Option<&str>); 6] = [
            (b"0::/system.slice/a.service\n", Some("/system.slice/a.service")),
            (
                b"4:memory:/x\n1:name=systemd:/system.slice/a.service\n0::/\n",
                Some("/system.slice/a.service"),
            ),
            (b"1:name=systemd:/b\n0::/a\n", Some("/a")),
            (b"1:name=systemd:/\n0::/\n", Some("/")),
            (b"4:memory:/a:b\n", Some("/a:b")),
            (b"nonsense\n", None),
        ];
        for (file, expected) in cases {
            let placement = Placement::parse(file);
            assert_eq!(placement.map(|it| it.path).as_deref(), expected);
        }
    }

    #[test]
    fn a_container_placed_by_a_controller_only_is_found() {
        let file = format!("4:memory:/docker/{ID}\n1:name=systemd:/\n0::/\n");

        let placement = Placement::parse(file.as_bytes()).unwrap();

        let runtime = Some("docker".into());
        let container = Container { id: ID.into(), runtime, ..Container::default() };
        let expected =
            Placement { path: "/".into(), container: Some(container), ..Placement::default() };
        assert_eq!(placement, expected);
    }

    #[test]
    fn bytes_that_are_not_utf8_survive() {
        let placement = Placement::parse(b"0::/system.slice/\xff\\x0a\\xf.service\n").unwrap();

        assert_eq!(placement.unit.as_deref(), Some("\\xff\\x0a\\xf.service"));
    }
}
