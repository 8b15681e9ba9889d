//! Which device runs the graphs, and why.

use std::fmt;
use std::str::FromStr;

/// What the operator asks for: the configuration key `device`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A GPU if there is one that computes right, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU; an error if there is none that computes right.
    Wgpu,
    /// The adapter with this in its name, whatever its kind; an error if there is none.
    Adapter(String),
}

/// A text that is no [`DeviceChoice`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown device `{0}`: expected auto, cpu, wgpu or wgpu:<adapter name>")]
pub struct UnknownDevice(pub String);

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "wgpu" => Ok(DeviceChoice::Wgpu),
            _ => match text.strip_prefix("wgpu:") {
                Some(name) if !name.trim().is_empty() => Ok(DeviceChoice::Adapter(name.trim().to_owned())),
                _ => Err(UnknownDevice(text.to_owned())),
            },
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Wgpu => f.write_str("wgpu"),
            DeviceChoice::Adapter(name) => write!(f, "wgpu:{name}"),
        }
    }
}

/// An adapter that was found, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As the driver names it; `cpu` for the CPU backend.
    pub name: String,
    /// `discrete GPU`, `integrated GPU`, `virtual GPU`, `CPU` or `other`.
    pub kind: &'static str,
    /// The driver and its version; for the CPU its vector instructions.
    pub driver: String,
    /// The most bytes of one tensor that kernels take on the device.
    pub max_binding_bytes: u64,
    /// The most bytes of one buffer.
    pub max_buffer_bytes: u64,
    /// Whether it runs the graphs.
    pub chosen: bool,
    /// Why it does or does not.
    pub why: String,
}

/// What an adapter is, in words.
pub(crate) fn kind_of(info: &wgpu::AdapterInfo) -> &'static str {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete GPU",
        wgpu::DeviceType::IntegratedGpu => "integrated GPU",
        wgpu::DeviceType::VirtualGpu => "virtual GPU",
        wgpu::DeviceType::Cpu => "CPU",
        wgpu::DeviceType::Other => "other",
    }
}

/// How an adapter ranks among those that fit; `None` for one that does not. Smaller is better.
pub(crate) fn rank(choice: &DeviceChoice, info: &wgpu::AdapterInfo) -> Option<u8> {
    let by_kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => Some(0),
        wgpu::DeviceType::IntegratedGpu => Some(1),
        wgpu::DeviceType::VirtualGpu => Some(2),
        wgpu::DeviceType::Other => Some(3),
        wgpu::DeviceType::Cpu => None,
    };
    match choice {
        DeviceChoice::Cpu => None,
        DeviceChoice::Auto | DeviceChoice::Wgpu => by_kind,
        DeviceChoice::Adapter(name) => {
            info.name.to_lowercase().contains(&name.to_lowercase()).then_some(by_kind.unwrap_or(4))
        }
    }
}

/// The entry of an adapter that was not looked at closer.
pub(crate) fn describe(adapter: &wgpu::Adapter, why: String) -> DeviceInfo {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    DeviceInfo {
        kind: kind_of(&info),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        name: info.name,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        chosen: false,
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wgpu_choice_is_read_and_written() {
        for text in ["auto", "cpu", "wgpu", "wgpu:llvmpipe"] {
            assert_eq!(text.parse::<DeviceChoice>().map(|c| c.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "gpu", "wgpu:", "wgpu: ", "Auto", "cpu:0"] {
            let refused = text.parse::<DeviceChoice>().expect_err("no device");
            assert!(refused.to_string().contains("wgpu:<adapter name>"), "{refused}");
        }
    }
}
