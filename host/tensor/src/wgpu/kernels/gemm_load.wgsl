// Four rows of a, four columns of b, four elements of a result, those beyond its edges left out.
fn rows_of_a(row: u32, k: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if k < P[4] {
        if row < P[2] { v.x = load_a(row, k); }
        if row + 1u < P[2] { v.y = load_a(row + 1u, k); }
        if row + 2u < P[2] { v.z = load_a(row + 2u, k); }
        if row + 3u < P[2] { v.w = load_a(row + 3u, k); }
    }
    return v;
}

fn columns_of_b(k: u32, column: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if k < P[4] {
        if column < P[3] { v.x = load_b(k, column); }
        if column + 1u < P[3] { v.y = load_b(k, column + 1u); }
        if column + 2u < P[3] { v.z = load_b(k, column + 2u); }
        if column + 3u < P[3] { v.w = load_b(k, column + 3u); }
    }
    return v;
}

fn store_row(row: u32, column: u32, c: vec4<f32>) {
    if row < P[2] {
        if column < P[3] { store(row, column, c.x); }
        if column + 1u < P[3] { store(row, column + 1u, c.y); }
        if column + 2u < P[3] { store(row, column + 2u, c.z); }
        if column + 3u < P[3] { store(row, column + 3u, c.w); }
    }
}
