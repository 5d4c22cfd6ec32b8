// The 16 levels of IQ4_NL and IQ4_XS, as signed bytes.
const IQ4_LEVELS = vec4<u32>(0xBFAD9881u, 0xF6EADDCFu, 0x26190D01u, 0x71594535u);

fn iq4_level(code: u32) -> f32 {
    let levels = IQ4_LEVELS;
    return f32(extractBits(bitcast<i32>(levels[code / 4u]), 8u * (code % 4u), 8u));
}
