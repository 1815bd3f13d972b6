//! Third-party vectors, on both engines. tests/vectors/INDEX.md says where each is from.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha512};
use sha3::digest::{ExtendableOutput, Update, XofReader};
use strongroom_core::drbg::{CtrDrbg, SEED_LEN};
use strongroom_core::engine::{Aead, Engine, GcmKey};
use strongroom_core::error::Error;
use strongroom_core::kc_xaes::BoxKey;
use strongroom_core::params::{CHUNK_LEN, STREAM_PREFIX_LEN, TAG_LEN, WIRE_CHUNK_LEN};
use strongroom_core::stream::{self, Decryptor, Encryptor, Prefix, RandomAccess, StreamKey};
use strongroom_core::{kdf, parallel, random};

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/vectors")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(name: &str) -> Value {
    serde_json::from_str(&text(name)).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn field(value: &Value, name: &str) -> Vec<u8> {
    unhex(value[name].as_str().unwrap())
}

/// Seals or opens one AES-256-GCM vector and compares; `valid` says which it must be.
fn check_gcm(case: &Value, names: [&str; 3], valid: bool) {
    let [nonce, associated_data, plaintext] = names.map(|name| field(case, name));
    let (key, ciphertext, tag) = (field(case, "key"), field(case, "ct"), field(case, "tag"));
    let nonce: [u8; 12] = nonce.try_into().unwrap();
    let tag: [u8; TAG_LEN] = tag.try_into().unwrap();
    for engine in Engine::ALL {
        let gcm = GcmKey::new(engine, key[..].try_into().unwrap());
        let mut sealed = vec![0; plaintext.len()];
        let made = gcm.seal(&nonce, &associated_data, &plaintext, &mut sealed);
        assert_eq!(
            (sealed == ciphertext) && (made == tag),
            valid,
            "{engine:?} {case}"
        );
        let mut opened = vec![0xaa; ciphertext.len()];
        let result = gcm.open(&nonce, &associated_data, &ciphertext, &tag, &mut opened);
        if valid {
            result.unwrap();
            assert_eq!(opened, plaintext);
        } else {
            assert!(matches!(result, Err(Error::Decryption { index: None })));
            assert!(opened.iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn wycheproof_aes_256_gcm() {
    let mut seen = 0;
    for group in json("wycheproof/aes_gcm_test.json")["testGroups"]
        .as_array()
        .unwrap()
    {
        if (group["keySize"] != 256) || (group["ivSize"] != 96) || (group["tagSize"] != 128) {
            continue;
        }
        for case in group["tests"].as_array().unwrap() {
            check_gcm(case, ["iv", "aad", "msg"], case["result"] != "invalid");
            seen += 1;
        }
    }
    assert_eq!(
        seen, 66,
        "all vectors of 256-bit keys, 96-bit IVs, 128-bit tags"
    );
}

#[test]
fn nist_cavp_aes_256_gcm() {
    let file = json("nist-cavp/gcmEncryptExtIV256_iv96_tag128.json");
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 375);
    for case in cases {
        check_gcm(case, ["iv", "aad", "pt"], case["result"] == "valid");
    }
}

/// KC-XAES-256-GCM of one vector; XAES-256-GCM is the same without the last 32 bytes.
#[test]
fn nist_cavp_ctr_drbg() {
    let text = text("nist-cavp/ctr_drbg_aes_256_no_df.txt");
    let values = |name: &str| -> Vec<Vec<u8>> {
        text.lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
            .map(unhex)
            .collect()
    };
    let (entropy, reseed) = (values("Entropy"), values("Reseed"));
    let returned = values("Returned");
    assert_eq!((entropy.len(), reseed.len(), returned.len()), (5, 5, 5));
    let seed = |value: &[u8]| -> [u8; SEED_LEN] { value.try_into().unwrap() };
    for ((entropy, reseed), returned) in entropy.iter().zip(&reseed).zip(&returned) {
        let mut drbg = CtrDrbg::new(&seed(entropy));
        drbg.reseed(&seed(reseed));
        let mut out = [0; 64];
        drbg.generate(&mut out);
        drbg.generate(&mut out);
        assert_eq!(out[..], returned[..]);
        // What the nonces of records use is the first request, of any length.
        for len in [0, 1, 16, 24, 4080, 4096] {
            let (mut once, mut first) = (vec![0; len], vec![0; len]);
            CtrDrbg::generate_once(&seed(entropy), &mut once);
            CtrDrbg::new(&seed(entropy)).generate(&mut first);
            assert_eq!(once, first);
        }
    }
}

fn kc_xaes(engine: Engine, key: &[u8], nonce: &[u8], ad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let key = BoxKey::new(key.try_into().unwrap());
    let nonce = nonce.try_into().unwrap();
    let mut sealed = vec![0; plaintext.len() + 48];
    key.seal(engine, nonce, ad, plaintext, &mut sealed);
    let mut opened = vec![0; plaintext.len()];
    key.open(engine, nonce, ad, &sealed, &mut opened).unwrap();
    assert_eq!(opened, plaintext);
    sealed
}

#[test]
fn kc_xaes_256_gcm_of_aws_lc() {
    let file = text("kc-xaes/xaes_256_gcm_kc_tests.txt");
    let mut seen = 0;
    let mut fields = std::collections::HashMap::new();
    for line in file.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        fields.insert(name.to_owned(), value.trim().to_owned());
        if name != "TAG" {
            continue;
        }
        let get = |name: &str| unhex(&fields[name]);
        let expected = [get("CT"), get("TAG")].concat();
        for engine in Engine::ALL {
            let sealed = kc_xaes(engine, &get("KEY"), &get("NONCE"), &get("AD"), &get("IN"));
            assert_eq!(sealed, expected, "{engine:?}");
        }
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn xaes_256_gcm_of_c2sp() {
    let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
    let cases = [
        (
            1,
            "",
            "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
        ),
        (
            3,
            "c2sp.org/XAES-256-GCM",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ];
    for (byte, ad, expected) in cases {
        for engine in Engine::ALL {
            let sealed = kc_xaes(engine, &[byte; 32], nonce, ad.as_bytes(), b"XAES-256-GCM");
            assert_eq!(sealed[..sealed.len() - 32], unhex(expected));
        }
    }
}

#[test]
fn xaes_256_gcm_accumulated() {
    let mut stream = sha3::Shake128::default().finalize_xof();
    let mut hashes = Engine::ALL.map(|_| sha3::Shake128::default());
    let mut read = |len: usize| {
        let mut bytes = vec![0; len];
        stream.read(&mut bytes);
        bytes
    };
    for _ in 0..10_000 {
        let (key, nonce) = (read(32), read(24));
        let len = read(1)[0];
        let plaintext = read(len.into());
        let len = read(1)[0];
        let associated_data = read(len.into());
        for (engine, hash) in Engine::ALL.into_iter().zip(&mut hashes) {
            let sealed = kc_xaes(engine, &key, &nonce, &associated_data, &plaintext);
            hash.update(&sealed[..sealed.len() - 32]);
        }
    }
    for hash in hashes {
        let mut out = [0; 32];
        hash.finalize_xof().read(&mut out);
        let expected = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939";
        assert_eq!(out[..], unhex(expected));
    }
}

#[test]
fn wycheproof_hmac_and_hkdf_sha512() {
    let mut seen = 0;
    for group in json("wycheproof/hmac_sha512_test.json")["testGroups"]
        .as_array()
        .unwrap()
    {
        for case in group["tests"].as_array().unwrap() {
            let made = kdf::hmac_sha512(&field(case, "key"), &[&field(case, "msg")]);
            let tag = field(case, "tag");
            assert_eq!(
                made[..tag.len()] == tag,
                case["result"] == "valid",
                "{case}"
            );
            seen += 1;
        }
    }
    assert_eq!(seen, 174);
    for group in json("wycheproof/hkdf_sha512_test.json")["testGroups"]
        .as_array()
        .unwrap()
    {
        for case in group["tests"].as_array().unwrap() {
            let len = usize::try_from(case["size"].as_u64().unwrap()).unwrap();
            if case["result"] == "invalid" {
                assert!(
                    len > 255 * kdf::MAC_LEN,
                    "only the length makes one of them invalid"
                );
                continue;
            }
            let prk = kdf::hmac_sha512(&field(case, "salt"), &[&field(case, "ikm")]);
            let mut okm = vec![0; len];
            kdf::hkdf_expand_sha512(&prk[..], &[&field(case, "info")], &mut okm);
            assert_eq!(okm, field(case, "okm"), "{case}");
            seen += 1;
        }
    }
    assert!(seen > 174 + 70, "{seen}");
}

/// Opens through each interface: what came out before the error, and whether there was one.
fn open_in_steps(key: &[u8; 32], context: &[u8], message: &[u8], step: usize) -> (Vec<u8>, bool) {
    let engine = Engine::for_streams();
    let Some((prefix, sealed)) = message.split_first_chunk::<STREAM_PREFIX_LEN>() else {
        return (Vec::new(), false);
    };
    let Ok(stream) = StreamKey::open(engine, key, &Prefix::from_bytes(prefix), &[context]) else {
        return (Vec::new(), false);
    };
    let mut reader = Decryptor::new(stream);
    let mut out = Vec::new();
    for piece in sealed.chunks(step) {
        if reader.update(piece, &mut out).is_err() {
            let before = out.len();
            assert!(
                reader.update(b"more", &mut out).is_err(),
                "an error repeats"
            );
            assert!(reader.finalize(&mut out).is_err());
            assert_eq!(out.len(), before);
            return (out, false);
        }
    }
    let ended = reader.finalize(&mut out).is_ok();
    (out, ended)
}

#[test]
fn wycheproof_cobblestone_256() {
    let file = json("wycheproof/c2sp_chunked_encryption_aes_256_gcm_test.json");
    let mut seen = 0;
    for case in file["testGroups"][0]["tests"].as_array().unwrap() {
        seen += 1;
        let mut message = Vec::new();
        let packed = field(case, "ct");
        std::io::Read::read_to_end(
            &mut flate2::read::ZlibDecoder::new(&packed[..]),
            &mut message,
        )
        .unwrap();
        let context = field(case, "ctx");
        let Ok(key) = <[u8; 32]>::try_from(field(case, "key")) else {
            assert!(case["flags"].to_string().contains("InvalidKeySize"));
            continue;
        };
        let valid = case["result"] == "valid";
        let prefix_len = case["msgLength"].as_u64().unwrap_or(0);
        let check_prefix = |plaintext: &[u8]| {
            assert!(
                plaintext.len() as u64 <= prefix_len,
                "no byte past the valid prefix"
            );
            if plaintext.len() as u64 == prefix_len && case["msgSha512"].is_string() {
                assert_eq!(Sha512::digest(plaintext)[..], field(case, "msgSha512"));
            }
        };
        for engine in Engine::ALL {
            let opened = stream::decrypt(engine, &key, &context, &message);
            assert_eq!(opened.is_ok(), valid, "{engine:?} {}", case["tcId"]);
            if let Ok(plaintext) = opened {
                assert_eq!(plaintext.len() as u64, prefix_len);
                check_prefix(&plaintext);
                reseal(engine, &key, &context, &message, &plaintext);
            }
        }
        for step in [1000, CHUNK_LEN, WIRE_CHUNK_LEN, 100_000] {
            let (plaintext, ended) = open_in_steps(&key, &context, &message, step);
            assert_eq!(ended, valid);
            check_prefix(&plaintext);
        }
        assert_eq!(open_by_chunks(&key, &context, &message).is_some(), valid);
    }
    assert_eq!(seen, 13);
}

/// The whole message by random access, last chunk first.
fn open_by_chunks(key: &[u8; 32], context: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let (prefix, sealed) = stream::split(message).ok()?;
    let stream = StreamKey::open(Engine::for_streams(), key, &prefix, &[context]).ok()?;
    let reader = RandomAccess::new(stream, sealed.len() as u64).unwrap();
    let mut plaintext = vec![0; usize::try_from(reader.len).unwrap()];
    for index in (0..reader.chunks()).rev() {
        let (offset, len) = reader.chunk_at(index);
        let offset = usize::try_from(offset).unwrap();
        let start = usize::try_from(index).unwrap() * CHUNK_LEN;
        let out = &mut plaintext[start..start + len - TAG_LEN];
        reader
            .open(index, &sealed[offset..offset + len], out)
            .ok()?;
    }
    Some(plaintext)
}

/// The same plaintext under the same salt gives the same chunks, in parallel and in steps.
fn reseal(engine: Engine, key: &[u8; 32], context: &[u8], message: &[u8], plaintext: &[u8]) {
    let (prefix, sealed) = stream::split(message).unwrap();
    let open = || StreamKey::open(engine, key, &prefix, &[context]).unwrap();
    let mut out = vec![0; sealed.len()];
    parallel::seal_message(open(), plaintext, &mut out, None, &mut |_| Ok(())).unwrap();
    assert!(out == sealed);
    for step in [1000, 16_384, 50_000] {
        let mut writer = Encryptor::new(open());
        let mut out = Vec::new();
        for piece in plaintext.chunks(step) {
            writer.update(piece, &mut out).unwrap();
        }
        writer.finalize(&mut out).unwrap();
        assert!(out == sealed);
    }
}

#[test]
fn engines_agree_on_random_messages() {
    let lengths = [
        0,
        1,
        15,
        16,
        17,
        191,
        192,
        193,
        16_383,
        16_384,
        16_385,
        32_768,
        3 << 20,
    ];
    for len in lengths {
        let mut plaintext = vec![0; len];
        let (mut key, mut nonce) = ([0; 32], [0; 24]);
        random::fill(&mut plaintext).unwrap();
        random::fill(&mut key).unwrap();
        random::fill(&mut nonce).unwrap();
        let made = Engine::ALL.map(|engine| kc_xaes(engine, &key, &nonce, b"ad", &plaintext));
        assert!(made[0] == made[1], "{len}");
        let message = stream::encrypt(Engine::AesGcm, &key, b"context", &plaintext).unwrap();
        let opened = stream::decrypt(Engine::AwsLc, &key, b"context", &message).unwrap();
        assert!(opened == plaintext, "{len}");
        let message = stream::encrypt(Engine::AwsLc, &key, b"context", &plaintext).unwrap();
        let opened = stream::decrypt(Engine::AesGcm, &key, b"context", &message).unwrap();
        assert!(opened == plaintext, "{len}");
        assert!(stream::decrypt(Engine::AesGcm, &key, b"other", &message).is_err());
    }
}

#[test]
fn plain_gcm_opens_under_two_keys_and_a_box_does_not() {
    let file = json("commitment/gcm_multikey_collisions.json");
    for case in file["cases"].as_array().unwrap() {
        let nonce: [u8; 12] = field(case, "nonce").try_into().unwrap();
        let ciphertext = field(case, "ciphertext");
        let tag: [u8; 16] = field(case, "tag").try_into().unwrap();
        let mut out = vec![0; ciphertext.len()];
        for key in case["keys"].as_array().unwrap() {
            let key: [u8; 32] = unhex(key.as_str().unwrap()).try_into().unwrap();
            for engine in Engine::ALL {
                let gcm = GcmKey::new(engine, &key);
                gcm.open(&nonce, &field(case, "aad"), &ciphertext, &tag, &mut out)
                    .unwrap();
                // The same bytes as a box: no commitment of theirs fits both keys.
                let sealed = [&ciphertext[..], &tag[..], &[0; 32][..]].concat();
                let whole = [&[0; 12][..], &nonce[..]].concat();
                let opened = BoxKey::new(&key).open(
                    engine,
                    whole[..].try_into().unwrap(),
                    b"",
                    &sealed,
                    &mut out,
                );
                assert!(matches!(opened, Err(Error::Decryption { .. })));
            }
        }
    }
}
