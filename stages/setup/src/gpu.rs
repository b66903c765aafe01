//! GPUs, proven by running a kernel and comparing its result with the processor's.
//!
//! The kernel is PTX, which the driver compiles for the card that is there: a card newer than this program works.

use std::{panic::catch_unwind, sync::Arc, time::Instant};

use cudarc::{
    driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg},
    nvrtc::Ptx,
};
use serde::{Deserialize, Serialize};

/// Numbers in each vector of the test (64 MiB a vector).
const LEN: usize = 16 << 20;

/// `y[i] = a * x[i] + y[i]`.
const KERNEL: &str = "
.version 6.0
.target sm_50
.address_size 64
.visible .entry saxpy(.param .u64 py, .param .u64 px, .param .f32 pa, .param .u32 pn) {
  .reg .pred %p; .reg .b32 %r<5>; .reg .f32 %f<4>; .reg .b64 %d<6>;
  ld.param.u64 %d0, [py]; ld.param.u64 %d1, [px]; ld.param.f32 %f0, [pa]; ld.param.u32 %r0, [pn];
  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;
  mad.lo.s32 %r4, %r1, %r2, %r3;
  setp.ge.u32 %p, %r4, %r0; @%p bra END;
  cvta.to.global.u64 %d0, %d0; cvta.to.global.u64 %d1, %d1;
  mul.wide.u32 %d2, %r4, 4; add.s64 %d3, %d0, %d2; add.s64 %d4, %d1, %d2;
  ld.global.f32 %f1, [%d3]; ld.global.f32 %f2, [%d4];
  fma.rn.f32 %f3, %f0, %f2, %f1; st.global.f32 [%d3], %f3;
END: ret;
}";

/// A GPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gpu {
    /// Name that the driver gives.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (i32, i32),
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Memory that is free now, in bytes.
    pub free_bytes: u64,
    /// Measured memory traffic of the kernel, 10^9 bytes a second; 0 when it did not run.
    pub gigabytes_per_s: f64,
    /// Why the card cannot be used, with the fix; none when the kernel gave the right result.
    pub problem: Option<String>,
}

/// What the NVIDIA driver says of itself; empty without one.
pub fn driver_file() -> String {
    std::fs::read_to_string("/proc/driver/nvidia/version")
        .ok()
        .and_then(|t| t.lines().next().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")))
        .unwrap_or_default()
}

/// All GPUs of the CUDA driver, or why there are none.
pub fn probe() -> Result<Vec<Gpu>, String> {
    if !driver_library_loads() {
        let driver = driver_file();
        return Err(if driver.is_empty() {
            "no NVIDIA driver on this machine (libcuda was not found)".into()
        } else {
            format!(
                "the driver is loaded ({driver}) and its library libcuda.so.1 is not found; in a container, start it with access to the GPU"
            )
        });
    }
    // The bindings panic when a function is missing from an old library.
    let devices = catch_unwind(|| cudarc::driver::result::init().and_then(|()| CudaContext::device_count()))
        .map_err(|_| "the CUDA driver is too old for this program; update it".to_owned())?
        .map_err(|e| format!("the CUDA driver does not start ({e:?}); `nvidia-smi` may say more, a restart after a driver update often helps"))?;
    if devices == 0 {
        return Err("the CUDA driver is there and lists no GPU; check CUDA_VISIBLE_DEVICES".into());
    }
    Ok((0..devices as usize).map(|i| one(i).unwrap_or_else(|e| unusable(i, e))).collect())
}

#[expect(unsafe_code, reason = "loading a shared library runs its initialisers")]
fn driver_library_loads() -> bool {
    // SAFETY: the driver's own library, found the way every CUDA program finds it.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

fn unusable(index: usize, e: DriverError) -> Gpu {
    Gpu {
        name: format!("GPU {index}"),
        compute_capability: (0, 0),
        memory_bytes: 0,
        free_bytes: 0,
        gigabytes_per_s: 0.0,
        problem: Some(format!("the driver refuses it: {e:?}")),
    }
}

fn one(index: usize) -> Result<Gpu, DriverError> {
    let context = CudaContext::new(index)?;
    let (free, total) = context.mem_get_info()?;
    let mut gpu = Gpu {
        name: context.name()?,
        compute_capability: context.compute_capability()?,
        memory_bytes: total as u64,
        free_bytes: free as u64,
        gigabytes_per_s: 0.0,
        problem: None,
    };
    match saxpy(&context) {
        Ok((rate, true)) => gpu.gigabytes_per_s = rate,
        Ok((_, false)) => {
            gpu.problem = Some("the kernel ran and its result is wrong; the card or its driver is faulty".into());
        }
        Err(e) => {
            let (major, minor) = gpu.compute_capability;
            gpu.problem = Some(format!(
                "the kernel did not run ({e:?}) on compute capability {major}.{minor}; update the driver, and check that no other program holds the card's memory ({:.1} GiB are free)",
                free as f64 / 2f64.powi(30)
            ));
        }
    }
    Ok(gpu)
}

/// Runs the kernel; the result is its memory traffic in GB/s, and whether every number is right.
#[expect(unsafe_code, reason = "a kernel launch is beyond the compiler's checks")]
fn saxpy(context: &Arc<CudaContext>) -> Result<(f64, bool), DriverError> {
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(KERNEL))?;
    let kernel = module.load_function("saxpy")?;
    let x: Vec<f32> = (0..LEN).map(|i| (i % 1000) as f32).collect();
    let x_dev = stream.clone_htod(&x)?;
    let mut y_dev = stream.clone_htod(&vec![1f32; LEN])?;
    let (a, n) = (2f32, LEN as u32);
    let mut launch = |a: f32| -> Result<f64, DriverError> {
        let start = Instant::now();
        let mut args = stream.launch_builder(&kernel);
        args.arg(&mut y_dev).arg(&x_dev).arg(&a).arg(&n);
        // SAFETY: the kernel takes exactly these arguments and checks its index against n, the length of both vectors.
        unsafe { args.launch(LaunchConfig::for_num_elems(n)) }?;
        stream.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    };
    launch(a)?;
    // A second launch adds nothing (a = 0) and is timed without the first one's set-up.
    let seconds = launch(0.0)?;
    let y = stream.clone_dtoh(&y_dev)?;
    let right = x.iter().zip(&y).all(|(x, y)| (2.0 * x + 1.0 - y).abs() < 1e-3);
    Ok((12.0 * LEN as f64 / seconds / 1e9, right))
}
