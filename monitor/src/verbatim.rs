//! How values that are bytes already are written down: as those bytes.
//!
//! For `#[serde(with = "…")]`: the structures of the wire, which kernel and user space share, and paths,
//! which need not be UTF-8.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Writes a structure of the wire.
pub fn serialize<T, S>(value: &T, serializer: S) -> Result<S::Ok, S::Error>
where
    T: IntoBytes + Immutable,
    S: Serializer,
{
    serializer.serialize_bytes(value.as_bytes())
}

/// Reads a structure of the wire, which has exactly as many bytes as there are.
pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromBytes,
    D: Deserializer<'de>,
{
    let one = |bytes: &[u8]| T::read_from_bytes(bytes).ok();
    deserializer.deserialize_bytes(Bytes { read: one, of: PhantomData })
}

/// Many structures of the wire, one behind the other.
pub mod slice {
    use super::{Bytes, Deserializer, FromBytes, Immutable, IntoBytes, PhantomData, Serializer};

    /// Writes them.
    pub fn serialize<T, S>(values: &[T], serializer: S) -> Result<S::Ok, S::Error>
    where
        T: IntoBytes + Immutable,
        S: Serializer,
    {
        serializer.serialize_bytes(values.as_bytes())
    }

    /// Reads as many as there are.
    pub fn deserialize<'de, T, O, D>(deserializer: D) -> Result<O, D::Error>
    where
        T: FromBytes,
        O: From<Vec<T>>,
        D: Deserializer<'de>,
    {
        let all = |bytes: &[u8]| {
            let parts = bytes.chunks(size_of::<T>().max(1));
            let values: Option<Vec<T>> = parts.map(|part| T::read_from_bytes(part).ok()).collect();
            values
        };
        let values = deserializer.deserialize_bytes(Bytes { read: all, of: PhantomData })?;
        Ok(values.into())
    }
}

/// The bytes of a path, where there is one.
pub mod path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize as _, Serialize as _};
    use serde_bytes::{ByteBuf, Bytes};

    use super::{Deserializer, Serializer};

    /// Writes it.
    pub fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        path.as_deref().map(bytes).as_deref().map(Bytes::new).serialize(serializer)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let bytes = Option::<ByteBuf>::deserialize(deserializer)?;
        Ok(bytes.map(|bytes| OsString::from_vec(bytes.into_vec()).into()))
    }
}

/// What packets call an interface, where they can: namespace and index.
pub mod interface {
    use monitor_ebpf::wire::InterfaceId;
    use serde::{Deserialize as _, Serialize as _};

    use super::{Deserializer, Error as _, Serializer};

    /// Writes it.
    pub fn serialize<S: Serializer>(
        id: &Option<InterfaceId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        id.map(|id| (id.netns(), id.ifindex())).serialize(serializer)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<InterfaceId>, D::Error> {
        let id = Option::<(u32, u32)>::deserialize(deserializer)?;
        id.map(|(netns, ifindex)| {
            InterfaceId::new(netns, ifindex).ok_or_else(|| D::Error::custom("no such interface"))
        })
        .transpose()
    }
}

/// Takes bytes, and makes of them what they stand for.
struct Bytes<R, T> {
    read: R,
    of: PhantomData<T>,
}

impl<R, T> Visitor<'_> for Bytes<R, T>
where
    R: FnOnce(&[u8]) -> Option<T>,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes of the wire")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<T, E> {
        (self.read)(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &"a structure of the wire"))
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::PathBuf;

    use monitor_ebpf::wire::{Fates, InterfaceId};
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Example {
        #[serde(with = "super")]
        one: Fates,
        #[serde(with = "super::slice")]
        many: Cow<'static, [Fates]>,
        #[serde(with = "super::path")]
        path: Option<PathBuf>,
        #[serde(with = "super::interface")]
        interface: Option<InterfaceId>,
    }

    #[test]
    fn what_is_written_is_read_again() {
        let fates = Fates { seen: 3, filtered: 1, submitted: u64::MAX, ring_full: 0 };
        let path = PathBuf::from(OsStr::from_bytes(b"/tmp/\xff\n"));
        for (path, interface) in [(None, None), (Some(path), InterfaceId::new(7, 2))] {
            let example = Example { one: fates, many: Cow::Owned(vec![fates; 3]), path, interface };

            let written = rmp_serde::to_vec_named(&example).unwrap();

            assert_eq!(rmp_serde::from_slice::<Example>(&written).unwrap(), example);
        }
    }

    #[test]
    fn bytes_that_are_no_structure_are_refused() {
        #[derive(Debug, Serialize)]
        struct Short<'a> {
            #[serde(with = "serde_bytes")]
            one: &'a [u8],
        }
        #[derive(Debug, Deserialize)]
        struct One {
            #[serde(with = "super")]
            #[expect(dead_code, reason = "only whether it can be read is of interest")]
            one: Fates,
        }

        for length in [0, 31, 33] {
            let written = rmp_serde::to_vec_named(&Short { one: &vec![0; length] }).unwrap();

            let error = rmp_serde::from_slice::<One>(&written).unwrap_err();

            assert!(error.to_string().contains("invalid length"), "{error}");
        }
    }
}
