// Levels that are the integers from LOW to HIGH, which the importing shader declares.
fn nearest(y: f32) -> f32 {
    return round(clamp(y, LOW, HIGH));
}

// How the nearest level is stored: counted from LOW.
fn code_of(y: f32) -> u32 {
    return u32(nearest(y) - LOW);
}
