Connection files. Every *.toml here is read; a change is in force within a second, or refused as a whole.
The smallest one, say orders.toml:

    [[connection]]
    name = "orders"
    url = "https://example.com/hooks/orders"

posthaste check      says what is wrong with a file
posthaste status     says what waits, and why
/usr/share/doc/posthaste/examples has more.
