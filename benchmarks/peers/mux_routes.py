"""The routes of the mux benchmark; mux_go/main.go has the same."""


def patterns(n: int) -> list[str]:
    """n patterns: /users/{id}, /users, and others beside them, as an API has them."""
    out = ["/users/{id}", "/users"]
    shapes = ("/{a}", "", "/{a}/details", "/{a}/parts/{b}")
    for i in range(n):
        out.append(f"/resource{i // len(shapes)}{shapes[i % len(shapes)]}")
    return out[:n]
