//! Every algorithm strongSwan 5.9 has in common with us, in both roles.

use super::{Pair, Scenario};

fn try_it(test: &str, scenario: &Scenario) {
    let Some(pair) = Pair::start(test, scenario) else {
        return;
    };
    pair.move_data();
}

macro_rules! combinations {
    ($($name:ident: $ike:literal, $esp:literal;)*) => {$(
        mod $name {
            use super::*;
            #[test]
            fn we_initiate() {
                try_it(concat!(stringify!($name), " as initiator"), &Scenario { ike: $ike, esp: $esp, ..Scenario::default() });
            }
            #[test]
            fn we_respond() {
                try_it(concat!(stringify!($name), " as responder"), &Scenario { ike: $ike, esp: $esp, initiate: false, ..Scenario::default() });
            }
        }
    )*};
}

combinations! {
    x25519_aes128gcm: "aes128gcm16-prfsha256-x25519", "aes128gcm16";
    ecp256_aes256gcm: "aes256gcm16-prfsha384-ecp256", "aes256gcm16";
    ecp384_chacha20poly1305: "chacha20poly1305-prfsha256-ecp384", "chacha20poly1305";
    modp2048_aes256_sha256: "aes256-sha256-modp2048", "aes256-sha256";
    modp3072_aes128_sha384: "aes128-sha384-modp3072", "aes128-sha384";
    modp4096_aes256_sha512: "aes256-sha512-modp4096", "aes256-sha512";
}
