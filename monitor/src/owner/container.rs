//! The container a process runs in, and the image that was made from.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A container: its id as the cgroup path tells it, the rest as its runtime does.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Container {
    /// 64 hex digits, or a name with LXC and systemd-nspawn.
    pub id: String,
    /// Who made it: `docker`, `podman`, `containerd`, `cri-o`, `lxc`, `systemd-nspawn`; `None` where
    /// the path does not say.
    pub runtime: Option<Cow<'static, str>>,
    /// UID of the Kubernetes pod.
    pub pod_uid: Option<String>,
    /// The name its runtime has for it.
    #[serde(default)]
    pub name: Option<String>,
    /// What it was made from.
    #[serde(default)]
    pub image: Option<Image>,
    /// The namespace of Kubernetes that the pod is in.
    #[serde(default)]
    pub pod_namespace: Option<String>,
    /// The name of the pod.
    #[serde(default)]
    pub pod_name: Option<String>,
}

/// The image of a container, as the runtime says.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Image {
    /// As the container was asked for: `registry.example/cardbridge:1.4`. A tag may lead to another image
    /// tomorrow.
    pub name: String,
    /// `sha256:` and 64 hex digits: the id the runtime has for it.
    pub id: Option<String>,
    /// Where it came from, by what it is: `registry.example/cardbridge@sha256:…`. Empty for an image that
    /// was built here, or that is gone by now.
    pub digests: Vec<String>,
}

impl Image {
    /// Every hash that names it, `sha256:` and 64 hex digits, each once.
    pub fn hashes(&self) -> Vec<&str> {
        let of_digests = self.digests.iter().filter_map(|digest| Some(digest.split_once('@')?.1));
        let mut hashes: Vec<&str> = of_digests.chain(self.id.as_deref()).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_by_every_hash_once() {
        let image = Image {
            name: "web".to_owned(),
            id: Some("sha256:02".to_owned()),
            digests: ["a/web@sha256:01", "b/web@sha256:01"].map(str::to_owned).into(),
        };

        assert_eq!(image.hashes(), ["sha256:01", "sha256:02"]);
    }
}
