//! Options of the operations, from the interface's form to the engine's: lists of a fixed length
//! are checked, what is not given becomes WebNN's default.

use warren_tensor::{
    Activation, Conv2d, ConvTranspose2d, Dims, Direction, FilterLayout, GruCell, GruLayout, InputLayout,
    Interpolation, LstmCell, LstmLayout, Pool2d, Resample2d, Rounding, TransposeFilterLayout,
};

use super::{refusal, wit};

type Result<T> = std::result::Result<T, wit::Error>;

/// A list as long as a shape, or a refusal that names the operation.
pub fn dims(operation: &str, list: &[u32]) -> Result<Dims> {
    Dims::new(list).ok_or_else(|| {
        let message = format!("a list of {} where rank is at most 8", list.len());
        refusal(wit::ErrorKind::InvalidArgument, operation, message)
    })
}

/// As [`dims`], of a list that need not be given.
pub fn optional_dims(operation: &str, list: Option<&[u32]>) -> Result<Option<Dims>> {
    list.map(|list| dims(operation, list)).transpose()
}

/// Exactly N values, if any are given.
fn optional<T: Copy, const N: usize>(
    operation: &str,
    name: &str,
    list: Option<&[T]>,
) -> Result<Option<[T; N]>> {
    let Some(list) = list else {
        return Ok(None);
    };
    list.try_into().map(Some).map_err(|_| {
        let message = format!("{name} has {} entries, must have {N}", list.len());
        refusal(wit::ErrorKind::InvalidArgument, operation, message)
    })
}

/// Exactly N values, or the default N times.
fn fixed<const N: usize>(
    operation: &str,
    name: &str,
    list: Option<&[u32]>,
    default: u32,
) -> Result<[u32; N]> {
    Ok(optional(operation, name, list)?.unwrap_or([default; N]))
}

/// A layout of images.
pub fn layout(layout: wit::InputOperandLayout) -> InputLayout {
    match layout {
        wit::InputOperandLayout::Nchw => InputLayout::Nchw,
        wit::InputOperandLayout::Nhwc => InputLayout::Nhwc,
    }
}

/// Options of `conv2d`, without the bias.
pub fn conv2d(o: &wit::Conv2dOptions) -> Result<Conv2d> {
    const NAME: &str = "conv2d";
    Ok(Conv2d {
        padding: fixed(NAME, "padding", o.padding.as_deref(), 0)?,
        strides: fixed(NAME, "strides", o.strides.as_deref(), 1)?,
        dilations: fixed(NAME, "dilations", o.dilations.as_deref(), 1)?,
        groups: o.groups,
        input_layout: layout(o.input_layout),
        filter_layout: match o.filter_layout {
            wit::Conv2dFilterOperandLayout::Oihw => FilterLayout::Oihw,
            wit::Conv2dFilterOperandLayout::Hwio => FilterLayout::Hwio,
            wit::Conv2dFilterOperandLayout::Ohwi => FilterLayout::Ohwi,
            wit::Conv2dFilterOperandLayout::Ihwo => FilterLayout::Ihwo,
        },
    })
}

/// Options of `conv-transpose2d`, without the bias.
pub fn conv_transpose2d(o: &wit::ConvTranspose2dOptions) -> Result<ConvTranspose2d> {
    const NAME: &str = "conv-transpose2d";
    Ok(ConvTranspose2d {
        padding: fixed(NAME, "padding", o.padding.as_deref(), 0)?,
        strides: fixed(NAME, "strides", o.strides.as_deref(), 1)?,
        dilations: fixed(NAME, "dilations", o.dilations.as_deref(), 1)?,
        output_padding: fixed(NAME, "output-padding", o.output_padding.as_deref(), 0)?,
        output_sizes: optional(NAME, "output-sizes", o.output_sizes.as_deref())?,
        groups: o.groups,
        input_layout: layout(o.input_layout),
        filter_layout: match o.filter_layout {
            wit::ConvTranspose2dFilterOperandLayout::Iohw => TransposeFilterLayout::Iohw,
            wit::ConvTranspose2dFilterOperandLayout::Hwoi => TransposeFilterLayout::Hwoi,
            wit::ConvTranspose2dFilterOperandLayout::Ohwi => TransposeFilterLayout::Ohwi,
        },
    })
}

/// Options of the pooling operation called `name`.
pub fn pool2d(name: &str, o: &wit::Pool2dOptions) -> Result<Pool2d> {
    Ok(Pool2d {
        window: optional(name, "window-dimensions", o.window_dimensions.as_deref())?,
        padding: fixed(name, "padding", o.padding.as_deref(), 0)?,
        strides: fixed(name, "strides", o.strides.as_deref(), 1)?,
        dilations: fixed(name, "dilations", o.dilations.as_deref(), 1)?,
        layout: layout(o.layout),
        rounding: match o.output_shape_rounding {
            wit::RoundingType::Floor => Rounding::Floor,
            wit::RoundingType::Ceil => Rounding::Ceil,
        },
        output_sizes: optional(name, "output-sizes", o.output_sizes.as_deref())?,
    })
}

/// Options of `resample2d`.
pub fn resample2d(o: &wit::Resample2dOptions) -> Result<Resample2d> {
    const NAME: &str = "resample2d";
    Ok(Resample2d {
        mode: match o.mode {
            wit::InterpolationMode::NearestNeighbor => Interpolation::NearestNeighbor,
            wit::InterpolationMode::Linear => Interpolation::Linear,
        },
        scales: optional(NAME, "scales", o.scales.as_deref())?.unwrap_or([1.0; 2]),
        sizes: optional(NAME, "sizes", o.sizes.as_deref())?,
        axes: optional(NAME, "axes", o.axes.as_deref())?.unwrap_or([2, 3]),
    })
}

/// The order in which a recurrent network takes its steps.
pub fn direction(direction: wit::RecurrentNetworkDirection) -> Direction {
    match direction {
        wit::RecurrentNetworkDirection::Forward => Direction::Forward,
        wit::RecurrentNetworkDirection::Backward => Direction::Backward,
        wit::RecurrentNetworkDirection::Both => Direction::Both,
    }
}

fn activations<const N: usize>(
    name: &str,
    list: Option<&[wit::RecurrentNetworkActivation]>,
    default: [Activation; N],
) -> Result<[Activation; N]> {
    let given = optional::<_, N>(name, "activations", list)?;
    Ok(given.map_or(default, |list| {
        list.map(|a| match a {
            wit::RecurrentNetworkActivation::Relu => Activation::Relu,
            wit::RecurrentNetworkActivation::Sigmoid => Activation::Sigmoid,
            wit::RecurrentNetworkActivation::Tanh => Activation::Tanh,
        })
    }))
}

/// Attributes of one step of `gru` or `gru-cell`.
pub fn gru_cell(
    name: &str,
    hidden_size: u32,
    reset_after: bool,
    layout: wit::GruWeightLayout,
    list: Option<&[wit::RecurrentNetworkActivation]>,
) -> Result<GruCell> {
    let default = GruCell::new(hidden_size);
    let layout = match layout {
        wit::GruWeightLayout::Zrn => GruLayout::Zrn,
        wit::GruWeightLayout::Rzn => GruLayout::Rzn,
    };
    let activations = activations(name, list, default.activations)?;
    Ok(GruCell { reset_after, layout, activations, ..default })
}

/// Attributes of one step of `lstm` or `lstm-cell`.
pub fn lstm_cell(
    name: &str,
    hidden_size: u32,
    layout: wit::LstmWeightLayout,
    list: Option<&[wit::RecurrentNetworkActivation]>,
) -> Result<LstmCell> {
    let default = LstmCell::new(hidden_size);
    let layout = match layout {
        wit::LstmWeightLayout::Iofg => LstmLayout::Iofg,
        wit::LstmWeightLayout::Ifgo => LstmLayout::Ifgo,
    };
    let activations = activations(name, list, default.activations)?;
    Ok(LstmCell { layout, activations, ..default })
}
