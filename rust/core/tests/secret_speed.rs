//! What a secret and a nonce cost: the best of many rounds, so that a busy machine does no harm.
//! It prints, and asserts only what is promised: ten times what it takes and more.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use strongroom_core::kc_xaes::BoxKey;
use strongroom_core::params::RECORD_OVERHEAD;
use strongroom_core::secret::{Secret, generation};
use strongroom_core::{random, record};

/// Nanoseconds a call, in the fastest of 50 rounds.
fn nanoseconds(calls: u32, mut call: impl FnMut()) -> f64 {
    (0..50)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..calls {
                call();
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
        })
        .fold(f64::INFINITY, f64::min)
}

#[test]
fn secret_speed() {
    let kept: Vec<_> = (0..100)
        .map(|_| Secret::copy_from(&[1; 32]).unwrap())
        .collect();
    let pair = nanoseconds(1000, || {
        black_box(Secret::copy_from(black_box(&[7; 32])).unwrap());
    });
    let expose = nanoseconds(1000, || {
        black_box(kept[0].expose().unwrap());
    });
    let schedule = nanoseconds(1000, || {
        black_box(Secret::new(black_box([7_u64; 125])).unwrap());
    });
    let own = nanoseconds(20, || {
        black_box(Secret::new(black_box([7_u64; 500])).unwrap());
    });
    let generation = nanoseconds(1000, || {
        black_box(generation());
    });
    let nonce = nanoseconds(2000, || {
        black_box(random::nonce24().unwrap());
    });
    let mut page = [0; 4080];
    let fill = nanoseconds(20, || random::fill(black_box(&mut page)).unwrap());
    // The record path with the key in the arena and the stack wiped after each, and without.
    let (key, id) = (BoxKey::new(&[7; 32]), [1; 16]);
    let kept_key = Secret::make(|| BoxKey::new(&[7; 32])).unwrap();
    let (mut message, mut out) = ([0; 64 + RECORD_OVERHEAD], [0; 64]);
    record::seal(&key, &id, b"", &[2; 64], &mut message).unwrap();
    let bare = nanoseconds(1000, || {
        record::open_unwiped(black_box(&key), b"", &message, &mut out).unwrap();
    });
    let record = nanoseconds(1000, || {
        let key = black_box(&kept_key).expose().unwrap();
        record::open(key, b"", &message, &mut out).unwrap();
    });
    // 1 us each to make and to free.
    assert!(pair < 2000.0, "a 32-byte secret took {pair:.0} ns");
    println!(
        "32-byte secret made and freed {pair:.0} ns; of 1000 bytes, by value {schedule:.0}; with own \
         pages {own:.0}; exposed {expose:.1}; generation {generation:.1}; nonce {nonce:.1}; \
         4080 bytes from the system {fill:.0}; a record of 64 bytes opened {record:.1}, with a key \
         on the stack and the stack not wiped {bare:.1}"
    );
}
