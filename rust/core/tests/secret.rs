//! The arena from outside: values, bytes, limits and what a freed slot looks like.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use strongroom_core::Error;
use strongroom_core::random;
use strongroom_core::secret::{ForkLocal, Secret, SecretBytes, SharedBytes, generation, status};

#[test]
fn secret_comes_back_and_is_dropped_once() {
    static DROPS: AtomicUsize = AtomicUsize::new(0);
    struct Noisy([u64; 5]);
    impl Drop for Noisy {
        fn drop(&mut self) {
            DROPS.fetch_add(1, Ordering::Relaxed);
        }
    }
    let secret = Secret::new(Noisy([1, 2, 3, 4, 5])).unwrap();
    assert_eq!(secret.expose().unwrap().0, [1, 2, 3, 4, 5]);
    assert_eq!(format!("{secret:?}"), "Secret(..)");
    drop(secret);
    assert_eq!(DROPS.load(Ordering::Relaxed), 1);
}

#[test]
fn secret_keeps_its_alignment() {
    #[repr(align(64))]
    struct Wide([u8; 70]);
    #[repr(align(4096))]
    struct Page([u8; 5000]);
    for _ in 0..100 {
        let wide = Secret::new(Wide([7; 70])).unwrap();
        let wide = wide.expose().unwrap();
        assert_eq!(std::ptr::from_ref(wide).addr() % 64, 0);
        assert_eq!(wide.0, [7; 70]);
    }
    let page = Secret::new(Page([9; 5000])).unwrap();
    let page = page.expose().unwrap();
    assert_eq!(std::ptr::from_ref(page).addr() % 4096, 0);
    assert!(page.0.iter().all(|&b| b == 9));
}

#[test]
fn secret_keys_differ() {
    let keys: Vec<_> = (0..1000)
        .map(|_| Secret::<[u8; 32]>::generate().unwrap())
        .collect();
    let distinct: HashSet<_> = keys.iter().map(|k| *k.expose().unwrap()).collect();
    assert_eq!(distinct.len(), keys.len());
}

#[test]
fn secret_of_a_failed_fill_is_zeroed() {
    let result = Secret::<[u8; 32]>::try_new_with(|slot| {
        slot.fill(1);
        Err(Error::Interrupted)
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    for _ in 0..200 {
        Secret::<[u8; 32]>::new_with(|slot| assert_eq!(*slot, [0; 32])).unwrap();
    }
}

#[test]
fn secret_bytes_of_every_length() {
    for len in (1..300).chain([2031, 2032, 2033, 4095, 4096, 4097, 70_000]) {
        let mut secret = SecretBytes::new(len).unwrap();
        assert_eq!(secret.len(), len);
        assert!(secret.expose().unwrap().iter().all(|&b| b == 0));
        secret.expose_mut().unwrap().fill(0xa5);
        assert!(secret.expose().unwrap().iter().all(|&b| b == 0xa5));
    }
    assert!(matches!(SecretBytes::new(0), Err(Error::Invalid(_))));
    for huge in [usize::MAX, isize::MAX as usize, (1 << 30) + 1] {
        assert!(
            matches!(SecretBytes::new(huge), Err(Error::Limit(_))),
            "{huge}"
        );
    }
}

#[test]
fn secret_with_own_pages_ends_at_one() {
    let mut secret = SecretBytes::new(5000).unwrap();
    let end = secret.expose_mut().unwrap().as_ptr_range().end;
    assert_eq!(end.addr() % 4096, 0);
}

#[test]
fn secret_shared_bytes_check_their_bounds() {
    let shared = SharedBytes::new(10).unwrap();
    shared.write(0, b"0123456789").unwrap();
    let mut out = [0; 4];
    shared.read(6, &mut out).unwrap();
    assert_eq!(&out, b"6789");
    for (offset, len) in [(7, 4), (10, 1), (11, 0), (usize::MAX, 1), (usize::MAX, 4)] {
        let mut data = vec![0; len];
        assert!(matches!(
            shared.write(offset, &data),
            Err(Error::Invalid(_))
        ));
        assert!(matches!(
            shared.read(offset, &mut data),
            Err(Error::Invalid(_))
        ));
    }
    shared.wipe();
    let mut all = [1; 10];
    shared.read(0, &mut all).unwrap();
    assert_eq!(all, [0; 10]);
}

#[test]
fn secret_shared_bytes_are_never_torn() {
    let shared = SharedBytes::new(4096).unwrap();
    thread::scope(|scope| {
        for value in 0..2_u8 {
            let shared = &shared;
            scope.spawn(move || {
                for _ in 0..2000 {
                    shared.write(0, &[value; 4096]).unwrap();
                }
            });
        }
        scope.spawn(|| {
            let mut out = [0; 4096];
            for _ in 0..2000 {
                shared.read(0, &mut out).unwrap();
                assert!(out.iter().all(|&b| b == out[0]));
            }
        });
    });
}

#[test]
fn secret_fork_local_is_made_once_in_a_process() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    static CELL: ForkLocal<usize> = ForkLocal::new(|| MADE.fetch_add(1, Ordering::Relaxed));
    assert!(CELL.get_if_made().is_none());
    let first = CELL.get();
    assert!(std::ptr::eq(first, CELL.get()));
    assert!(CELL.get_if_made().is_some());
    assert_eq!(MADE.load(Ordering::Relaxed), 1);
    assert_ne!(generation(), 0);
    assert_eq!(generation(), generation());
}

#[test]
fn secret_status_counts_pages() {
    let secret = SecretBytes::new(100_000).unwrap();
    let status = status().unwrap();
    assert!(status.locked_bytes + status.unlocked_bytes >= 100_000);
    assert!(status.secrets >= 1);
    assert_eq!(secret.is_locked(), status.unlocked_bytes == 0);
}

#[test]
fn secret_nonces_never_repeat_across_threads() {
    let all: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    for round in 0..5000 {
                        mine.push(random::nonce24().unwrap());
                        if round % 100 == worker {
                            let mut batch = [[0; 24]; 40];
                            random::nonces(&mut batch).unwrap();
                            mine.extend(batch);
                            random::nonces(&mut batch[..7]).unwrap();
                            mine.extend(&batch[..7]);
                            random::reseed();
                        }
                    }
                    mine
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|w| w.join().unwrap())
            .collect()
    });
    assert!(all.iter().all(|n| n.iter().any(|&b| b != 0)));
    let distinct: HashSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
}
