"""What a run's routes say, as numbers, figures and a page; reads what evaluation recorded and touches no model."""
