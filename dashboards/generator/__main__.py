"""Write every dashboard."""

from dashboards.generator.files import write_all

write_all()
