// The compute part of the Metal Shading Language, as C++17.
//
// Everything is in namespace `msl`, and in `msl::metal` what Metal has in `metal`; a kernel is
// compiled inside of `msl`. So a name like `exp` is Metal's and never the C library's.
#pragma once
#include "atomics.h"
#include "constants.h"
#include "logging.h"
#include "math.h"
#include "matrices.h"
#include "simd.h"
#include "simdgroup_matrix.h"
#include "threadgroup.h"
#include "types.h"
#include "vectors.h"

#define __METAL__ 1
#define __METAL_VERSION__ 320

// The host has one address space. Declarations of threadgroup variables were rewritten before the
// compiler sees them. Last in this file: other headers may use these words as names.
#define device
#define constant
#define thread
#define threadgroup
#define ray_data
#define kernel
