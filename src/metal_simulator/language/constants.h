// Constants (Metal Shading Language specification, sections 6.3 and 6.5): macros, as in Metal.
#pragma once
#include "types.h"

#undef INFINITY
#undef NAN
#undef HUGE_VALF
#undef HUGE_VALH
#undef MAXFLOAT
#undef MAXHALF
#define INFINITY (__builtin_inff())
#define NAN (__builtin_nanf(""))
#define HUGE_VALF (__builtin_inff())
#define HUGE_VALH (::msl::half(__builtin_inff()))
#define MAXFLOAT 3.402823466e+38f
#define MAXHALF (::msl::half(65504.0f))
