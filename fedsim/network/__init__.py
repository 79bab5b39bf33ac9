"""When messages arrive: links and what flows over them. Knows neither clocks nor transports."""
