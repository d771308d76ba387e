//! The map of a file that is never written again, and whether anybody still reads it.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::error::Result;

/// A file's bytes, from the first time that somebody asks for them.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    slot: RwLock<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    bytes: Option<Bytes>,
    /// Lives as long as the bytes, or any slice of them.
    users: Weak<()>,
}

/// What the bytes own: [`Bytes::is_unique`] does not tell of a map.
struct Owner {
    map: Bytes,
    _user: Arc<()>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Mapped {
    /// The bytes; `map` makes them where they are not there.
    ///
    /// # Errors
    /// Those of `map`.
    pub(super) fn get(&self, map: impl FnOnce() -> Result<Bytes>) -> Result<Bytes> {
        if let Some(bytes) = &self.slot.read().bytes {
            return Ok(bytes.clone());
        }
        let mut slot = self.slot.write();
        if let Some(bytes) = &slot.bytes {
            return Ok(bytes.clone());
        }
        let user = Arc::new(());
        slot.users = Arc::downgrade(&user);
        let owner = Owner {
            map: map()?,
            _user: user,
        };
        Ok(slot.bytes.insert(Bytes::from_owner(owner)).clone())
    }

    pub(super) fn is_there(&self) -> bool {
        self.slot.read().bytes.is_some()
    }

    /// Lets go of the bytes. Who has some keeps them.
    pub(super) fn forget(&self) {
        self.slot.write().bytes = None;
    }

    /// Lets go of the bytes; whether nobody has any now.
    pub(super) fn lets_go(&self) -> bool {
        self.forget();
        self.slot.read().users.strong_count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_let_go_of_with_the_last_slice_of_them() {
        let mapped = Mapped::default();
        assert!(mapped.lets_go());
        let bytes = mapped.get(|| Ok(Bytes::from_static(b"bytes"))).unwrap();
        let again = mapped.get(|| panic!("they are there")).unwrap();
        assert!(bytes == again && mapped.is_there());
        let slice = bytes.slice(1..2);
        drop((bytes, again));
        assert!(!mapped.lets_go());
        assert!(!mapped.is_there());
        drop(slice);
        assert!(mapped.lets_go());
    }
}
