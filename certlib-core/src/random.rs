//! Randomness: from the system, or from a seed where a run must be repeatable.
//!
//! Everything random that decides *when* or *in what order* something happens is drawn here: jitter, ids, instants in
//! renewal windows. Keys, nonces and tokens are not: they always come from the system.

use std::cell::RefCell;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng as _};
use uuid::{Builder, Uuid};

thread_local! {
    static SEEDED: RefCell<Option<Seeded>> = const { RefCell::new(None) };
}

struct Seeded {
    rng: StdRng,
    ids: u64,
}

/// Draws all further randomness of this thread from `seed`: for simulations, which run on one thread.
pub fn seed_this_thread(seed: u64) {
    SEEDED.set(Some(Seeded { rng: StdRng::seed_from_u64(seed), ids: 0 }));
}

/// Calls `draw` with this thread's source of randomness.
pub(crate) fn with<T>(draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(seeded) => draw(&mut seeded.rng),
        None => draw(&mut rand::rng()),
    })
}

/// A fresh id that sorts by age: UUID version 7, or, from a seed, one that starts with a count.
pub(crate) fn id() -> Uuid {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(seeded) => {
            seeded.ids += 1;
            let mut bytes = [0; 16];
            seeded.rng.fill_bytes(&mut bytes);
            bytes[..6].copy_from_slice(&seeded.ids.to_be_bytes()[2..]);
            Builder::from_random_bytes(bytes).into_uuid()
        }
        None => Uuid::now_v7(),
    })
}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;

    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_its_ids_sort_by_age() {
        let draws = || {
            seed_this_thread(7);
            let ids: Vec<_> = (0..300).map(|_| id()).collect();
            assert!(ids.is_sorted());
            (ids, with(|rng| rng.random_range(0..u64::MAX)))
        };
        assert_eq!(draws(), draws());
    }
}
