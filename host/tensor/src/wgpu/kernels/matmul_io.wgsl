// Operands of a product as matrices with strides: P[5], P[6] of a, P[7], P[8] of b. The result is
// P[9] times the product, plus P[10] times a third operand (START 1) read by P[11] dimensions from
// P[12]. From P[16] on: offsets of a and b for each of the products.
@group(0) @binding(1) var<storage, read> A: array<f32>;
@group(0) @binding(2) var<storage, read> B: array<f32>;

var<private> at_a: u32;
var<private> at_b: u32;
var<private> at_result: u32;

fn begin(batch: u32) {
    at_a = P[16u + 2u * batch];
    at_b = P[17u + 2u * batch];
    at_result = batch * P[2] * P[3];
}

fn load_a(row: u32, k: u32) -> f32 {
    return A[at_a + row * P[5] + k * P[6]];
}

fn load_b(k: u32, column: u32) -> f32 {
    return B[at_b + k * P[7] + column * P[8]];
}

fn store(row: u32, column: u32, product: f32) {
    let at = row * P[3] + column;
    D[at_result + at] = started(product * bitcast<f32>(P[9]), at);
}
