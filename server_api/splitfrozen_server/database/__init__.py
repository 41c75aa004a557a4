"""The server's rows: tables, migrations, and the one thread that writes them."""
