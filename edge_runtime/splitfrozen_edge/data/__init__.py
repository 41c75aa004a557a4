"""Files of rows -> checked token ids. Knows neither models nor the network."""
