//! Operations that read and write at computed places, or go along an axis, against a plain
//! reference written from the WebNN specification.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod plain;

use plain::*;
use proptest::prelude::*;
use warren_tensor::*;

const INDEX_TYPES: [DataType; 3] = [DataType::Int32, DataType::Uint32, DataType::Int64];

/// What an index names on an axis: negative ones count from the end, and all are limited.
fn place(index: f64, size: usize) -> usize {
    let index = if index < 0.0 { index + size as f64 } else { index };
    index.clamp(0.0, size as f64 - 1.0) as usize
}

/// Indices, some of them beyond the ends.
fn indices(shape: &[usize], t: DataType, seed: u64) -> Dense {
    whole(shape, seed, if t == DataType::Uint32 { 0 } else { -9 }, 9)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_global_rejects: 1 << 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gathers(to in shape(1..=4, 6), axis in 0..4usize, at in shape(0..=3, 4), t in 0..8usize, it in 0..3usize, seed in any::<u64>(), w in 0..2usize) {
        let axis = axis % to.len();
        let (t, it) = (DataType::ALL[t], INDEX_TYPES[it]);
        let (x, i) = (whole(&to, seed, 0, 100), indices(&at, it, seed ^ 1));
        let mut out = to[..axis].to_vec();
        out.extend(&at);
        out.extend(&to[axis + 1..]);
        let want = Dense::from_fn(&out, |o| {
            let mut from = o[..axis].to_vec();
            from.push(place(i.at(&o[axis..axis + at.len()]), to[axis]));
            from.extend(&o[axis + at.len()..]);
            x.at(&from)
        });
        let (found_type, found) = compute(w, Op::Gather { axis: axis as u32 }, &[(t, &x), (it, &i)])?;
        prop_assert_eq!(found_type, t);
        close(&found, &want, 0.0)?;
    }

    #[test]
    fn elements_along_an_axis(to in shape(1..=4, 6), axis in 0..4usize, count in 0..6usize, t in 0..8usize, it in 0..3usize, seed in any::<u64>(), w in 0..2usize) {
        let axis = axis % to.len();
        let (t, it) = (DataType::ALL[t], INDEX_TYPES[it]);
        let mut at = to.clone();
        at[axis] = count;
        let (x, i, u) = (whole(&to, seed, 0, 100), indices(&at, it, seed ^ 1), whole(&at, seed ^ 2, 0, 100));
        let from = |o: &[usize]| {
            let mut from = o.to_vec();
            from[axis] = place(i.at(o), to[axis]);
            from
        };
        let want = Dense::from_fn(&at, |o| x.at(&from(o)));
        let (_, found) = compute(w, Op::GatherElements { axis: axis as u32 }, &[(t, &x), (it, &i)])?;
        close(&found, &want, 0.0)?;
        let mut want = x.clone();
        Dense::from_fn(&at, |o| {
            let offset = from(o).iter().zip(&to).fold(0, |s, (v, d)| s * d + v);
            want.data[offset] = u.at(o);
            0.0
        });
        let (_, found) = compute(w, Op::ScatterElements { axis: axis as u32 }, &[(t, &x), (it, &i), (t, &u)])?;
        close(&found, &want, 0.0)?;
    }

    #[test]
    fn slices_by_coordinates(to in shape(1..=4, 5), outer in shape(0..=2, 5), width in 0..5usize, t in 0..8usize, it in 0..3usize, seed in any::<u64>(), w in 0..2usize) {
        let width = width % (to.len() + 1);
        let (t, it) = (DataType::ALL[t], INDEX_TYPES[it]);
        let mut at = outer.clone();
        at.push(width);
        let mut out = outer.clone();
        out.extend(&to[width..]);
        let (x, i, u) = (whole(&to, seed, 0, 100), indices(&at, it, seed ^ 1), whole(&out, seed ^ 2, 0, 100));
        let from = |o: &[usize]| {
            let mut from = Vec::new();
            for (axis, &size) in to[..width].iter().enumerate() {
                let mut index = o[..outer.len()].to_vec();
                index.push(axis);
                from.push(place(i.data[index.iter().zip(&at).fold(0, |s, (v, d)| s * d + v)], size));
            }
            from.extend(&o[outer.len()..]);
            from
        };
        let want = Dense::from_fn(&out, |o| x.at(&from(o)));
        let (_, found) = compute(w, Op::GatherNd, &[(t, &x), (it, &i)])?;
        close(&found, &want, 0.0)?;
        let mut want = x.clone();
        Dense::from_fn(&out, |o| {
            let offset = from(o).iter().zip(&to).fold(0, |s, (v, d)| s * d + v);
            want.data[offset] = u.at(o);
            0.0
        });
        let (_, found) = compute(w, Op::ScatterNd, &[(t, &x), (it, &i), (t, &u)])?;
        close(&found, &want, 0.0)?;
    }

    #[test]
    fn places_of_extremes(to in shape(1..=4, 7), axis in 0..4usize, least in any::<bool>(), keep in any::<bool>(), long in any::<bool>(), t in 0..8usize, nan in any::<bool>(), seed in any::<u64>(), w in 0..2usize) {
        let axis = axis % to.len();
        let t = DataType::ALL[t];
        let mut x = whole(&to, seed, 0, 3);
        if nan && t.is_float() { let at = x.data.len() / 2; x.data[at] = f64::NAN; }
        let mut out = to.clone();
        if keep { out[axis] = 1 } else { out.remove(axis); }
        let want = Dense::from_fn(&out, |o| {
            let mut best: Option<(usize, f64)> = None;
            for i in 0..to[axis] {
                let mut at = o.to_vec();
                if keep { at[axis] = i } else { at.insert(axis, i); }
                let v = x.at(&at);
                let better = best.is_none_or(|(_, b)| !b.is_nan() && (v.is_nan() || if least { v < b } else { v > b }));
                if better { best = Some((i, v)); }
            }
            best.unwrap().0 as f64
        });
        let output_data_type = if long { DataType::Int64 } else { DataType::Int32 };
        let kind = if least { Arg::Min } else { Arg::Max };
        let op = Op::ArgMinMax { kind, axis: axis as u32, keep_dimensions: keep, output_data_type };
        let (found_type, found) = compute(w, op, &[(t, &x)])?;
        prop_assert_eq!(found_type, output_data_type);
        close(&found, &want, 0.0)?;
    }

    #[test]
    fn running_sums(to in shape(1..=4, 7), axis in 0..4usize, exclusive in any::<bool>(), reversed in any::<bool>(), t in 0..6usize, seed in any::<u64>(), w in 0..2usize) {
        let axis = axis % to.len();
        let t = DataType::ALL[t];
        let x = whole(&to, seed, 0, 50);
        let want = Dense::from_fn(&to, |o| (0..to[axis]).filter(|&i| {
            let before = if reversed { i > o[axis] } else { i < o[axis] };
            before || i == o[axis] && !exclusive
        }).map(|i| { let mut at = o.to_vec(); at[axis] = i; x.at(&at) }).sum());
        let (found_type, found) = compute(w, Op::CumulativeSum { axis: axis as u32, exclusive, reversed }, &[(t, &x)])?;
        prop_assert_eq!(found_type, t);
        close(&found, &want, 0.0)?;
    }

    #[test]
    fn reversals_and_tiles(to in shape(0..=4, 7), mask in any::<u32>(), all in any::<bool>(), times in prop::collection::vec(1..4usize, 4), t in 0..8usize, seed in any::<u64>(), w in 0..2usize) {
        let t = DataType::ALL[t];
        let x = whole(&to, seed, 0, 100);
        let axes: Vec<usize> = (0..to.len()).rev().filter(|i| all || mask & (1 << i) != 0).collect();
        let want = Dense::from_fn(&to, |o| {
            let at: Vec<usize> = o.iter().enumerate().map(|(a, &v)| if axes.contains(&a) { to[a] - 1 - v } else { v }).collect();
            x.at(&at)
        });
        let (_, found) = compute(w, Op::Reverse { axes: (!all).then(|| dims(&axes)) }, &[(t, &x)])?;
        close(&found, &want, 0.0)?;
        let times = &times[..to.len()];
        let out: Vec<usize> = to.iter().zip(times).map(|(d, n)| d * n).collect();
        let want = Dense::from_fn(&out, |o| x.at(&o.iter().zip(&to).map(|(v, d)| v % d).collect::<Vec<_>>()));
        let (_, found) = compute(w, Op::Tile { repetitions: dims(times) }, &[(t, &x)])?;
        close(&found, &want, 0.0)?;
    }

    #[test]
    fn triangles(to in shape(2..=4, 7), upper in any::<bool>(), diagonal in prop_oneof![-8..8i32, Just(i32::MIN), Just(i32::MAX)], t in 0..8usize, seed in any::<u64>(), w in 0..2usize) {
        let t = DataType::ALL[t];
        let x = whole(&to, seed, 1, 100);
        let want = Dense::from_fn(&to, |o| {
            let off = o[o.len() - 1] as i64 - o[o.len() - 2] as i64;
            let kept = if upper { off >= i64::from(diagonal) } else { off <= i64::from(diagonal) };
            if kept { x.at(o) } else { 0.0 }
        });
        let (_, found) = compute(w, Op::Triangular { upper, diagonal }, &[(t, &x)])?;
        close(&found, &want, 0.0)?;
    }
}
