"""The swizzle members of Metal's vectors (`v.xy`, `v.zyx`, `v.rgb`), made as C++ text.

`language/vectors.h` includes the texts into the vectors of two, three and four components. They
are long and all alike, so they are generated into the build cache, not kept in the repository.
"""

from itertools import permutations, product


def swizzle_members(size: int) -> str:
    """Return the member declarations of all swizzles of a vector with `size` components.

    Each member is a `swizzle`: a view of the chosen components, in the chosen order. As in the
    Metal Shading Language, the names of position (xyzw) and of colour (rgba) do not mix. Colours
    that name a component twice are left out: they are rare in kernels, and the compiler looks at
    every member for each variable of the type.
    """
    if size not in (2, 3, 4):
        raise ValueError(f"Vectors have 2, 3 or 4 components, not {size}.")
    lines = [f"// The swizzles of a vector with {size} components, made by swizzles.py."]
    for length in (2, 3, 4):
        for names, choices in (
            ("xyzw", product(range(size), repeat=length)),
            ("rgba", permutations(range(size), length)),
        ):
            for chosen in choices:
                name = "".join(names[index] for index in chosen)
                indices = ", ".join(map(str, chosen))
                lines.append(f"swizzle<metal::vec<T, {length}>, T, {size}, {indices}> {name};")
    return "\n".join(lines) + "\n"
