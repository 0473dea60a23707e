"""Tables, figures and the page of measurements. This file imports nothing."""
