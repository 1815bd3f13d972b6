//! Tells the extension which profile it was built with: the bench counts release builds alone.

fn main() {
    // .../target/[TRIPLE/]PROFILE/build/strongroom-python-HASH/out. Cargo's PROFILE variable says
    // "release" for every profile that inherits from it, link-time optimisation or not.
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    let profile = std::path::Path::new(&out)
        .ancestors()
        .find(|path| path.file_name().is_some_and(|name| name == "build"))
        .and_then(|path| path.parent()?.file_name()?.to_str())
        .unwrap_or("unknown");
    println!("cargo:rustc-env=STRONGROOM_PROFILE={profile}");
    println!("cargo:rerun-if-changed=build.rs");
}
