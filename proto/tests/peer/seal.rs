//! An SK payload by hand: with a changed header, any padding, any IV.

use super::Sa;
use landbridge_proto::crypto::IKE_PROVIDER;
use landbridge_proto::wire::{Header, PayloadType, encode_header};

/// One datagram: the header (after `change`), SK, `chain`, `padding` and its length. With the usual AEAD any length aligns.
pub fn by_hand(
    sa: &Sa,
    header: &Header,
    first: PayloadType,
    chain: &[u8],
    padding: &[u8],
    change: fn(&mut [u8]),
) -> Vec<u8> {
    let keys = sa.keys.as_ref().expect("keys");
    let key = if sa.initiator { &keys.cipher_i } else { &keys.cipher_r };
    let cipher = (IKE_PROVIDER.cipher)(sa.suite.cipher, key).unwrap();
    let sizes = cipher.sizes();
    let mut text = [chain, padding, &[padding.len() as u8]].concat();
    assert_eq!(text.len() % sizes.block, 0);
    let body = 4 + sizes.iv + text.len() + sizes.icv;
    let mut out = encode_header(header, PayloadType::SK, Header::LEN + body).to_vec();
    change(&mut out);
    out.extend_from_slice(&[first.0, 0]);
    out.extend_from_slice(&u16::try_from(body).unwrap().to_be_bytes());
    let iv = vec![0xa5; sizes.iv];
    let mut icv = vec![0; sizes.icv];
    cipher.seal(&out, None, &iv, &mut text, &mut icv);
    [out, iv, text, icv].concat()
}

/// One fragment (RFC 7383 §2.5) with any numbers.
pub fn fragment(sa: &Sa, header: &Header, first: PayloadType, part: &[u8], (number, total): (u16, u16)) -> Vec<u8> {
    let keys = sa.keys.as_ref().expect("keys");
    let key = if sa.initiator { &keys.cipher_i } else { &keys.cipher_r };
    let cipher = (IKE_PROVIDER.cipher)(sa.suite.cipher, key).unwrap();
    let sizes = cipher.sizes();
    let mut text = [part, &[0]].concat();
    assert_eq!(text.len() % sizes.block, 0);
    let body = 8 + sizes.iv + text.len() + sizes.icv;
    let mut out = encode_header(header, PayloadType::SKF, Header::LEN + body).to_vec();
    out.extend_from_slice(&[first.0, 0]);
    out.extend_from_slice(&u16::try_from(body).unwrap().to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&total.to_be_bytes());
    let mut iv = vec![0xb5; sizes.iv];
    iv[0] = number as u8;
    let mut icv = vec![0; sizes.icv];
    cipher.seal(&out, None, &iv, &mut text, &mut icv);
    [out, iv, text, icv].concat()
}
